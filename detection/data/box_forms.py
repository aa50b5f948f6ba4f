"""Boxes that look as if they were not x, y, width, height in pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image

from detection.data.annotations import Columns, ImageRecord, sizes_of

_SLACK = 1.0  # pixels by which a box may pass the border, from rounding
_PROBED = 50  # images of no given size, whose files are asked
_FEW = 3  # boxes: with fewer, chance decides


def wrong_form(images: list[ImageRecord], truth: Columns) -> str:
    """What the boxes of a file look like, as the end of a sentence; empty where they look right.

    Fractions: most boxes have no value above 1, and some a broken one. Corners: boxes pass the border of their image as
    x, y, width, height, too many for a slip, while (nearly) all are sound as x1, y1, x2, y2.
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
    boxes, limit = truth.bbox[known], size[known] + _SLACK
    beyond = ((boxes[:, :2] + boxes[:, 2:]) > limit).any(axis=1)
    corners = ((boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= limit) & (boxes[:, :2] >= -_SLACK)).all(axis=1)
    if len(boxes) >= _FEW and beyond.mean() > 0.2 and corners.mean() > 0.95 and corners[beyond].mean() > 0.99:
        return (
            f"has boxes that look like x1, y1, x2, y2 ({beyond.sum()} of {len(boxes)} pass the border of their image "
            "as x, y, width, height, and none does as corners): COCO's are x, y, width, height in pixels; subtract x "
            "and y from the last two"
        )
    return ""


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
