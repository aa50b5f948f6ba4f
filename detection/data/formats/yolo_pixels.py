"""YOLO's fractions of an image, and pixels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

_DECIMALS = 9  # of a pixel
_ROUNDED = 6  # decimals that tools write; fewer are a person's own


def to_pixels(values: np.ndarray, size: np.ndarray, corners: np.ndarray, decimals: int) -> np.ndarray:
    """Boxes x y w h in pixels, float64 [n, 4].

    A fraction of d decimals says a coordinate only to within half a unit of the last one, times the image's side. Of
    the numbers in that range the one with the fewest decimals is taken, at most 9: it is what the tool had before it
    divided. So 45.37 pixels are 45.37 again, and data trains alike as COCO and as YOLO.

    Args:
        values: [n, 4] fractions: center and size, or two corners.
        size: [n, 2], width and height of the images.
        corners: bool [n], which of them are corners.
        decimals: that the file's tool writes; below 6 the fractions are taken as exact.
    """
    unit = 10.0**-decimals if decimals >= _ROUNDED else 0.0
    first = values[:, :2] * size
    second = values[:, 2:] * size
    slack = size * (unit / 2 + 2e-15)
    start, end = _shortest(first, slack), _shortest(second, slack)  # of boxes by corners
    extent = np.where(corners[:, None], np.round(end - start, _DECIMALS), end)
    start = np.where(corners[:, None], start, _shortest(first - end / 2, slack * 1.5))
    return np.concatenate([start, extent], axis=1)


def _shortest(values: np.ndarray, slack: np.ndarray) -> np.ndarray:
    """The number with the fewest decimals within ``slack`` of each value."""
    found = np.round(values, _DECIMALS)
    for decimals in range(_DECIMALS - 1, -1, -1):
        rounded = np.round(values, decimals)
        found = np.where(np.abs(rounded - values) <= slack, rounded, found)
    return found + 0.0  # no -0.0


def fractions(boxes: Iterable[float], width: int, height: int) -> str:
    """``cx cy w h`` of a box x y w h in pixels, with all digits."""
    x, y, w, h = boxes
    return f"{(x + w / 2) / width!r} {(y + h / 2) / height!r} {w / width!r} {h / height!r}"
