"""Which default box learns which ground truth."""

import torch
from torch import Tensor
from torchvision.ops import box_convert

from detection.box_coding import encode


class Matcher:
    """Matches ground truth to default boxes: SSD's rule, Liu et al. 2016, Sec. 2.2.

    A default box takes the ground truth that it overlaps most, if their IoU is at least ``iou``; and each ground
    truth's best default box is its own whatever the IoU. Where two ground truths share a best default box, the
    later one of the list keeps it, as in torchvision.

    Args:
        default_boxes: ``[A, 4]`` cx, cy, w, h in [0, 1].
        iou: smallest IoU of a positive.
    """

    def __init__(self, default_boxes: Tensor, iou: float = 0.5) -> None:
        self.default_boxes = default_boxes
        self.corners = box_convert(default_boxes, "cxcywh", "xyxy")
        self.iou = iou

    def __call__(self, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Targets of a batch.

        Args:
            boxes: ``[N, M, 4]`` xyxy in [0, 1], padded.
            labels: ``[N, M]``, 0-based; -1 where padded.

        Returns:
            Box deltas ``[N, A, 4]`` (of use at positives only) and classes ``[N, A]``: 0 background, else label + 1.
        """
        images, count = labels.shape
        anchors = len(self.corners)
        if not count:
            return boxes.new_zeros(images, anchors, 4), labels.new_zeros(images, anchors)
        real = labels >= 0
        overlap = _iou(boxes, self.corners) * real[..., None]  # [N, M, A]
        best_iou, best_truth = overlap.max(dim=1)  # of every default box
        best_anchor = overlap.argmax(dim=2)  # of every ground truth
        # A padded truth claims a column that is cut off. The largest position wins: the later truth.
        best_anchor = torch.where(real, best_anchor, anchors)
        position = torch.arange(count, device=labels.device).expand_as(best_anchor)
        claimed = torch.full((images, anchors + 1), -1, device=labels.device)
        claimed = claimed.scatter_reduce(1, best_anchor, position, "amax")[:, :anchors]
        forced = claimed >= 0
        truth = torch.where(forced, claimed, best_truth)
        positive = forced | ((best_iou >= self.iou) & (best_iou > 0))
        classes = torch.where(positive, labels.gather(1, truth) + 1, 0)
        matched = boxes.gather(1, truth[..., None].expand(-1, -1, 4))
        # Where nothing matches, a default box is its own target: the delta stays finite.
        matched = torch.where(positive[..., None], matched, self.corners)
        return encode(matched, self.default_boxes), classes


def _iou(boxes: Tensor, corners: Tensor) -> Tensor:
    """IoU ``[N, M, A]`` of boxes ``[N, M, 4]`` and default boxes ``[A, 4]``."""
    low = torch.maximum(boxes[:, :, None, :2], corners[:, :2])
    high = torch.minimum(boxes[:, :, None, 2:], corners[:, 2:])
    width, height = (high - low).clamp_(min=0).unbind(-1)
    inner = width * height
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    anchor_area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return inner / (area[..., None] + anchor_area - inner).clamp_(min=1e-12)
