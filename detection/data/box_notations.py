"""What the four numbers of a box may mean, told by where the boxes of a data set end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_SLACK = 1.0  # pixels by which a box may pass the border, from rounding
_SLIP = 0.15  # the same, as a share of the box's side: of sound boxes that nobody cut at the border
FEW = 3  # boxes: fewer pass the border by chance
_MORE = 10  # boxes, to tell centers and corners of a size apart: few objects may all be far from two of the borders
MANY, _NEARLY_ALL = 0.02, 0.98  # shares of the boxes

CORNERS, CORNER, CENTER = "x1, y1, x2, y2", "the upper left corner and size", "the center and size"
# What the first and the last two of four numbers mean: start and end of a box.
FORMS: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    CORNERS: lambda first, last: (first, last),
    CORNER: lambda first, last: (first, first + last),
    CENTER: lambda first, last: (first - last / 2, first + last / 2),
}


def other_form(boxes: np.ndarray, size: np.ndarray, own: str) -> tuple[str, np.ndarray] | None:
    """In which other form boxes fit into their images, where they do not in their own.

    Args:
        boxes: [n, 4], pixels.
        size: [n, 2], width and height of the images.
        own: one of ``FORMS``.

    Returns:
        The name of the form, and which boxes pass the border in their own form: bool [n]. None where the own form may
        be right: too few pass the border by more than a slip, or some do in any other form.
    """
    start, end = FORMS[own](boxes[:, :2], boxes[:, 2:])
    slack = np.maximum(_SLACK, _SLIP * np.abs(end - start))
    beyond = ((start < -slack) | (end > size + slack)).any(axis=1)
    if beyond.sum() < FEW or beyond.mean() < MANY:
        return None
    for name, form in FORMS.items():
        start, end = form(boxes[:, :2], boxes[:, 2:])
        sound = ((start >= -_SLACK) & (end <= size + _SLACK) & (end > start)).all(axis=1)
        if name != own and sound.mean() > _NEARLY_ALL and (len(boxes) >= _MORE or name == CORNERS):
            return name, beyond
    return None
