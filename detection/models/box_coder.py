"""Boxes as offsets from default boxes, and back (Liu et al., "SSD", Eq. 2).

The offsets are divided by variances, as in the original implementation: 0.1 for centers, 0.2 for sides. torchvision's
``BoxCoder`` calls their inverses weights: (10, 10, 5, 5). They are applied here and in the compiled copy of ``decode``
(detection/kernels/nms.py), nowhere else.
"""

import math

import torch
from torch import Tensor

CENTER_VARIANCE = 0.1
SIZE_VARIANCE = 0.2
# torchvision's limit: a decoded side is at most 62.5 times that of its default box, so that exp cannot overflow.
MAX_LOG_SCALE = math.log(1000 / 16)


def encode(boxes_xyxy: Tensor, default_boxes: Tensor) -> Tensor:
    """Return the offsets that ``decode`` turns back into ``boxes_xyxy``.

    Args:
        boxes_xyxy: [..., 4] (x1, y1, x2, y2) of positive width and height, in the units of the default boxes.
        default_boxes: [..., 4] (cx, cy, w, h); leading dimensions broadcast.

    Returns:
        [..., 4] (dx, dy, dw, dh) in the dtype of ``default_boxes``.
    """
    low, high = boxes_xyxy.to(default_boxes.dtype).split(2, dim=-1)
    centers, sizes = default_boxes.split(2, dim=-1)
    offsets, log_scales = ((low + high) / 2 - centers) / sizes, torch.log((high - low) / sizes)
    return torch.cat((offsets / CENTER_VARIANCE, log_scales / SIZE_VARIANCE), dim=-1)


def decode(deltas: Tensor, default_boxes: Tensor) -> Tensor:
    """Return the boxes that raw predictions stand for.

    Args:
        deltas: [..., 4] (dx, dy, dw, dh) of any floating dtype.
        default_boxes: [..., 4] (cx, cy, w, h); leading dimensions broadcast.

    Returns:
        [..., 4] (x1, y1, x2, y2), not clipped to the image, in the dtype of ``default_boxes``.
    """
    offsets, log_scales = deltas.to(default_boxes.dtype).split(2, dim=-1)
    centers, sizes = default_boxes.split(2, dim=-1)
    centers = centers + offsets * CENTER_VARIANCE * sizes
    half_sizes = 0.5 * (sizes * (log_scales * SIZE_VARIANCE).clamp(max=MAX_LOG_SCALE).exp())
    return torch.cat((centers - half_sizes, centers + half_sizes), dim=-1)
