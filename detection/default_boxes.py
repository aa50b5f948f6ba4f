"""The default boxes ("anchors") of SSD300."""

import torch
from torch import Tensor

from classification.backbones.resnet import DETECTION_INPUT

# One entry per feature map; all lengths are in pixels. Liu et al., "SSD", Sec. 3.1, with the scales for COCO.
MAP_SIZES = (38, 19, 10, 5, 3, 1)
STEPS = (8, 16, 32, 64, 100, 300)
SCALES = (21, 45, 99, 153, 207, 261, 315)  # the seventh only closes the last map's geometric mean
ASPECT_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
BOXES_PER_CELL = tuple(2 + 2 * len(ratios) for ratios in ASPECT_RATIOS)  # 4, 6, 6, 6, 4, 4


def ssd300_default_boxes() -> Tensor:
    """Return the 8,732 default boxes: [8732, 4] float32, each (cx, cy, w, h) as a fraction of the image.

    They are ordered by feature map (38x38 first), then shape, then row, then column. The shapes of a cell are the
    square of this map's scale s, the square of the geometric mean of s and the next scale, then for each aspect ratio
    r a wide box (s * sqrt(r), s / sqrt(r)) and a tall one.

    Centers and sides (not corners) are clamped to [0, 1], as in the paper's released code: that moves the last row and
    column of the 10x10 map and shortens two sides of the 1x1 map.
    """
    levels = zip(MAP_SIZES, STEPS, SCALES, SCALES[1:], ASPECT_RATIOS, strict=False)
    return torch.cat([_level_boxes(*level) for level in levels]).float().clamp(0, 1)


def _level_boxes(map_size: int, step: int, scale: int, next_scale: int, ratios: tuple[int, ...]) -> Tensor:
    """Return the boxes of one feature map: [shapes * map_size**2, 4] float64, not yet clamped."""
    mean_scale = (scale * next_scale) ** 0.5
    shapes = [(scale, scale), (mean_scale, mean_scale)]
    for ratio in ratios:
        wide, narrow = scale * ratio**0.5, scale / ratio**0.5
        shapes += [(wide, narrow), (narrow, wide)]
    centers = (torch.arange(map_size, dtype=torch.float64) + 0.5) * step
    w, h = torch.tensor(shapes, dtype=torch.float64)[..., None, None].unbind(1)
    columns = torch.broadcast_tensors(centers, centers[:, None], w, h)
    return torch.stack(columns, dim=-1).flatten(0, 2) / DETECTION_INPUT
