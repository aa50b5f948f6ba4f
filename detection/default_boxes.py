"""The default boxes ("anchors") of SSD, at any input size."""

import torch
from torch import Tensor

from detection.heads import SSD300_BOXES, BoxPlan

MAP_SIZES = SSD300_BOXES.map_sizes(SSD300_BOXES.size)  # 38, 19, 10, 5, 3, 1
BOXES_PER_CELL = SSD300_BOXES.boxes_per_cell  # 4, 6, 6, 6, 4, 4


def ssd300_default_boxes() -> Tensor:
    """Return the 8,732 default boxes of SSD300: see ``create_default_boxes``."""
    return create_default_boxes(SSD300_BOXES, SSD300_BOXES.size)


def create_default_boxes(plan: BoxPlan, size: int) -> Tensor:
    """Return a plan's default boxes: [A, 4] float32, each (cx, cy, w, h) as a fraction of an input of ``size`` pixels.

    They are ordered by feature map (largest first), then shape, then row, then column. The shapes of a cell are the
    square of this map's scale s, the square of the geometric mean of s and the next scale, then for each aspect ratio
    r a wide box (s * sqrt(r), s / sqrt(r)) and a tall one.

    Centers and sides (not corners) are clamped to [0, 1], as in the paper's released code: at 300 pixels that moves the
    last row and column of the 10x10 map and shortens two sides of the 1x1 map.
    """
    maps = zip(plan.map_sizes(size), plan.steps(size), plan.shapes(size), strict=True)
    return torch.cat([_level_boxes(*level, size) for level in maps]).float().clamp(0, 1)


def _level_boxes(map_size: int, step: float, shapes: list[tuple[float, float]], size: int) -> Tensor:
    """Return the boxes of one feature map: [shapes * map_size**2, 4] float64, not yet clamped."""
    centers = (torch.arange(map_size, dtype=torch.float64) + 0.5) * step
    w, h = torch.tensor(shapes, dtype=torch.float64)[..., None, None].unbind(1)
    columns = torch.broadcast_tensors(centers, centers[:, None], w, h)
    return torch.stack(columns, dim=-1).flatten(0, 2) / size
