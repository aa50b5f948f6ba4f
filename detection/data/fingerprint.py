"""A fingerprint of annotated images."""

from detection.data.coco import CocoAnnotations
from divdet.engine.fingerprint import digest, file_sizes


def fingerprint(annotations: CocoAnnotations) -> str:
    """A hash of the annotations as read and of the image files' names and sizes.

    Image files are not opened, so another image of the same name and size in bytes goes unnoticed; times are left out,
    since copying changes them.
    """
    images, truth = annotations.images, annotations.truth
    return digest(
        annotations.category_ids,
        annotations.names,
        [(image.id, image.file_name, image.width, image.height) for image in images],
        file_sizes(image.path for image in images),
        *(truth.image, truth.label, truth.bbox, truth.area, truth.crowd),
    )
