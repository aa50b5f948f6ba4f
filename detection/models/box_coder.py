"""Boxes as offsets from default boxes, and back (Liu et al., "SSD", Eq. 2).

The offsets are divided by variances, as in the original implementation: 0.1 for centres, 0.2 for sides. They are
applied here, in the compiled copy of ``decode`` (detection/kernels/nms.py), and nowhere else. torchvision's
``BoxCoder`` calls their inverses weights: (10, 10, 5, 5).
"""

import math

import torch
from torch import Tensor
from torchvision.ops import box_convert

CENTRE_VARIANCE = 0.1
SIZE_VARIANCE = 0.2
# torchvision's limit: a decoded side is at most 62.5 times that of its default box, so that exp cannot overflow.
MAX_LOG_SCALE = math.log(1000 / 16)


def encode(boxes_xyxy: Tensor, default_boxes: Tensor) -> Tensor:
    """Return the offsets that ``decode`` turns back into ``boxes_xyxy``.

    boxes_xyxy: [..., 4] (x1, y1, x2, y2) of positive width and height, in the units of the default boxes.
    default_boxes: [..., 4] (cx, cy, w, h); leading dimensions broadcast.
    Result: [..., 4] (dx, dy, dw, dh) in the dtype of ``default_boxes``.
    """
    boxes = box_convert(boxes_xyxy.to(default_boxes.dtype), "xyxy", "cxcywh")
    centre_offsets = (boxes[..., :2] - default_boxes[..., :2]) / default_boxes[..., 2:]
    log_scales = torch.log(boxes[..., 2:] / default_boxes[..., 2:])
    return torch.cat((centre_offsets / CENTRE_VARIANCE, log_scales / SIZE_VARIANCE), dim=-1)


def decode(deltas: Tensor, default_boxes: Tensor) -> Tensor:
    """Return the boxes that raw predictions stand for; neither input is changed.

    deltas: [..., 4] (dx, dy, dw, dh) of any floating dtype; default_boxes: [..., 4] (cx, cy, w, h); leading dimensions
    broadcast. Result: [..., 4] (x1, y1, x2, y2), not clipped to the image, in the dtype of ``default_boxes``.
    """
    deltas = deltas.to(default_boxes.dtype)
    centres = default_boxes[..., :2] + deltas[..., :2] * CENTRE_VARIANCE * default_boxes[..., 2:]
    log_scales = (deltas[..., 2:] * SIZE_VARIANCE).clamp(max=MAX_LOG_SCALE)
    sizes = default_boxes[..., 2:] * log_scales.exp()
    return box_convert(torch.cat((centres, sizes), dim=-1), "cxcywh", "xyxy")
