"""Boxes that look as if they were not x, y, width, height in pixels."""

from __future__ import annotations

from collections import Counter

import numpy as np
from PIL import Image

from detection.data.annotations import Columns, ImageRecord, sizes_of

_SLACK = 1.0  # pixels by which a box may pass the border, from rounding
_PROBED = 50  # images of no given size, whose files are asked
_FEW = 3  # boxes: fewer pass the border by chance
_MORE = 10  # boxes, to tell centers: sound boxes of few objects may all be far from the left and upper border
_TYPICAL = 20  # boxes, of which some reach the border
_MANY, _NEARLY_ALL = 0.1, 0.98  # shares of the boxes


def wrong_form(images: list[ImageRecord], truth: Columns) -> str:
    """What the boxes of a file look like, as the end of a sentence; empty where they look right.

    Fractions: most boxes have no value above 1, and some a broken one. Corners or centers: boxes pass the border of
    their image as x, y, width, height, too many for a slip, while (nearly) all are sound in the other form.
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
    start, side = boxes[:, :2], boxes[:, 2:]
    beyond = (start + side > limit).any(axis=1)
    if beyond.sum() < _FEW or beyond.mean() < _MANY:
        return ""
    forms = {
        "x1, y1, x2, y2": ((side > start) & (side <= limit) & (start >= -_SLACK), "subtract x and y from the last two"),
        "the center and size": (
            (start - side / 2 >= -_SLACK) & (start + side / 2 <= limit) & (side > 0),
            "subtract half of width and height from x and y",
        ),
    }
    for name, (sound, what) in forms.items():
        if sound.all(axis=1).mean() > _NEARLY_ALL and (len(boxes) >= _MORE or name.startswith("x1")):
            return (
                f"has boxes that look like {name} ({beyond.sum()} of {len(boxes)} pass the border of their image as "
                f"x, y, width, height): COCO's are x, y, width, height in pixels; {what}"
            )
    return ""


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
