"""Results of several detectors on the same images, fused."""

from collections.abc import Sequence

import numpy as np

from detection.data.annotations import CocoAnnotations, sizes_of
from detection.data.coco_results import Results
from detection.fusion import fuse_by_method
from detection.prediction_settings import FusionRule
from divdet.engine.errors import UserError


def fuse_results(
    annotations: CocoAnnotations, results: Sequence[Results], rule: FusionRule, threads: int = 1
) -> Results:
    """Fuse the boxes of each image, as fractions of its annotated width and height.

    Args:
        annotations: of the images.
        results: of each detector, with scores on one scale.
        rule: the method; ``weights`` are one for each of ``results``.
        threads: how many share the images (wbf alone).

    Returns:
        By image, then by falling score. Nothing is rounded.

    Raises:
        UserError: where the size of an image is not known.
    """
    sizes = sizes_of(annotations.images)
    unknown = np.flatnonzero(np.isnan(sizes).any(axis=1))
    if len(unknown):
        named = annotations.images[unknown[0]].file_name
        raise UserError(
            f"{annotations.path}: {len(unknown)} of {len(sizes)} images have no width and height, the first {named}: "
            "boxes are fused as fractions of them; add them, or give the folder of the images as --images"
        )
    columns = zip(*((own.image, own.label, own.bbox, own.score) for own in results), strict=True)
    image, label, bbox, score = map(np.concatenate, columns)
    member = np.arange(len(results)).repeat([len(own) for own in results])
    order = np.lexsort((member, image))  # stable: within a detector's image as in its file
    image, label, bbox, score, member = (column[order] for column in (image, label, bbox, score, member))
    scale = np.tile(sizes, 2)[image]
    corners = np.concatenate((bbox[:, :2], bbox[:, :2] + bbox[:, 2:]), axis=1) / scale
    counts = np.bincount(image * len(results) + member, minlength=len(sizes) * len(results))
    counts = counts.reshape(len(sizes), len(results))
    fused = fuse_by_method(corners.clip(0, 1), score, label, counts, **vars(rule), threads=threads)
    boxes, scores, labels = map(np.concatenate, zip(*fused, strict=True))
    image = np.arange(len(sizes)).repeat([len(own) for _, own, _ in fused])
    boxes = boxes * np.tile(sizes, 2)[image]
    boxes[:, 2:] -= boxes[:, :2]
    return Results(image, labels, boxes, scores)
