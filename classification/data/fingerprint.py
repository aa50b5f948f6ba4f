"""A fingerprint of labelled images."""

from classification.data.datasets import ImageSet
from divdet.engine.fingerprint import digest, file_sizes


def fingerprint(images: ImageSet) -> str:
    """A hash of classes, labels and images: the content of those in memory, the names and sizes of those in files.

    Image files are not opened, so another image of the same name and size in bytes goes unnoticed; times and the
    folder's own place are left out, since copying changes them.
    """
    if images.items.dtype.kind == "U":
        names = [path.removeprefix(images.source) for path in images.items.tolist()]
        return digest(images.classes, images.labels, names, file_sizes(images.items.tolist()))
    return digest(images.classes, images.labels, images.items, images.content)
