"""What post-processing hands on."""

from typing import NamedTuple

from torch import Tensor


class Boxes(NamedTuple):
    """The boxes found on one image, on the CPU, by falling score."""

    boxes: Tensor  # [n, 4] float32 (x1, y1, x2, y2) as fractions of the input
    scores: Tensor  # [n] float32
    labels: Tensor  # [n] int64, 0-based: background is not counted
