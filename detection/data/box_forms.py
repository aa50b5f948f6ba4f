"""Boxes that look as if they were not x, y, width, height in pixels."""

from __future__ import annotations

from collections import Counter

import numpy as np
from PIL import Image

from detection.data.annotations import Columns, ImageRecord, sizes_of
from detection.data.box_notations import CENTER, CORNER, CORNERS, FEW, MANY, other_form

_PROBED = 50  # images of no given size, whose files are asked
_TYPICAL = 20  # boxes, of which some reach the border

_TO_CORNER = {CORNERS: "subtract x and y from the last two", CENTER: "subtract half of width and height from x and y"}


def wrong_form(images: list[ImageRecord], truth: Columns) -> str:
    """What the boxes of a file look like, as the end of a sentence; empty where they look right.

    Fractions: most boxes have no value above 1, and some a broken one. Corners or centers: boxes pass the border of
    their image, too many for a slip, while (nearly) all are sound in the other form; see ``other_form``. Or as many lie
    wholly outside.
    """
    boxes = truth.bbox[(truth.bbox[:, 2:] != 0).all(axis=1)]
    tiny = (boxes >= 0).all(axis=1) & (boxes <= 1).all(axis=1)
    if tiny.sum() > len(boxes) / 2 and (boxes[tiny] % 1).any():
        return (
            f"has boxes that look like fractions of the image ({tiny.sum()} of {len(boxes)} have no value above 1): "
            "COCO's are x, y, width, height in pixels; multiply x and width by the image's width, y and height by its "
            "height (and note that YOLO's x and y are the center)"
        )
    size = _sizes(images)[truth.image]
    known = np.isfinite(size).all(axis=1)
    boxes, size = truth.bbox[known], size[known]
    if not (other := other_form(boxes, size, CORNER)):
        outside = (boxes[:, :2] >= size).any(axis=1) | (boxes[:, :2] + boxes[:, 2:] <= 0).any(axis=1)
        outside &= (boxes[:, 2:] > 0).all(axis=1)
        if outside.sum() < FEW or outside.mean() < MANY:
            return ""
        return (
            f"has {outside.sum()} of {len(outside)} boxes wholly outside their image: COCO's are x, y, width, height "
            "in pixels; x and y, or the images' width and height, may be exchanged"
        )
    name, beyond = other
    return (
        f"has boxes that look like {name} ({beyond.sum()} of {len(beyond)} pass the border of their image as x, y, "
        f"width, height): COCO's are x, y, width, height in pixels; {_TO_CORNER[name]}; or, if they are right, "
        "cut them at the border"
    )


def odd_scale(images: list[ImageRecord], truth: Columns) -> Counter[str]:
    """Boxes that may be percent or thousandths of the image: they reach 100 (1000) in x and y, but none passes it.

    No proof, unlike ``wrong_form``; for ``CocoAnnotations.counts``.
    """
    size = sizes_of(images)[truth.image]
    for most, name in ((100, "percent"), (1000, "thousandths")):
        ends = (truth.bbox[:, :2] + truth.bbox[:, 2:])[(size > 1.1 * most).all(axis=1)]
        if len(ends) == len(truth.bbox) >= _TYPICAL and (np.abs(ends.max(axis=0) - 0.93 * most) <= 0.08 * most).all():
            return Counter({f"boxes that all end before x = y = {most} (are they {name} of the image?)": len(ends)})
    return Counter()


def _sizes(images: list[ImageRecord]) -> np.ndarray:
    """``sizes_of``, where the files of some images without a size tell it."""
    sizes = sizes_of(images)
    for index in np.flatnonzero(np.isnan(sizes).any(axis=1))[:_PROBED]:
        try:
            with Image.open(images[index].path) as image:
                sizes[index] = image.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # decoding it will raise the error
    return sizes
