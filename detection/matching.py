"""Which default box learns which ground truth."""

import torch
from torch import Tensor
from torchvision.ops import box_area, box_convert

from detection.box_coding import encode


class Matcher:
    """Matches ground truth to default boxes: SSD's rule, Liu et al. 2016, Sec. 2.2.

    A default box takes the ground truth that it overlaps most, if their IoU is above ``iou``; and each ground
    truth's best default box is its own whatever the IoU. Where two ground truths share a best default box, the
    later one of the list keeps it, as in torchvision.

    Args:
        default_boxes: ``[A, 4]`` cx, cy, w, h in [0, 1].
        iou: what a positive's IoU exceeds.
    """

    def __init__(self, default_boxes: Tensor, iou: float = 0.5) -> None:
        self.default_boxes = default_boxes
        self.corners = box_convert(default_boxes, "cxcywh", "xyxy")
        self.iou = iou
        self._edges = self.corners.T.contiguous()
        self._areas = box_area(self.corners)

    def __call__(self, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Targets of a batch.

        Args:
            boxes: ``[N, M, 4]`` xyxy in [0, 1], padded behind.
            labels: ``[N, M]``, 0-based; -1 where padded.

        Returns:
            Box deltas ``[N, A, 4]``, 0 at the background, and classes ``[N, A]``: 0 background, else label + 1.
        """
        # Image by image: the IoU of a whole batch takes gigabytes where one of its images is crowded.
        counts = (labels >= 0).sum(dim=1).tolist()
        truth = torch.stack([self._match(own[:count]) for own, count in zip(boxes, counts, strict=True)])
        image, anchor = (truth >= 0).nonzero(as_tuple=True)
        learnt = truth[image, anchor]
        deltas, classes = boxes.new_zeros(*truth.shape, 4), torch.zeros_like(truth)
        deltas[image, anchor] = encode(boxes[image, learnt], self.default_boxes[anchor])
        classes[image, anchor] = labels[image, learnt] + 1
        return deltas, classes

    def _match(self, boxes: Tensor) -> Tensor:
        """Which of one image's boxes ``[M, 4]`` each default box learns ``[A]``, -1 for none."""
        if not len(boxes):
            return torch.full((len(self.corners),), -1, device=boxes.device)
        overlap = self._overlap(boxes)
        best_iou, best_truth = overlap.max(dim=0)  # of every default box
        best_anchor = overlap.argmax(dim=1)  # of every ground truth
        position = torch.arange(len(boxes), device=boxes.device)
        claimed = torch.full_like(best_truth, -1).scatter_reduce(0, best_anchor, position, "amax")  # the later truth
        best_truth[best_iou <= self.iou] = -1
        return torch.where(claimed >= 0, claimed, best_truth)

    def _overlap(self, boxes: Tensor) -> Tensor:
        """IoU ``[M, A]`` with the default boxes: torchvision's ``box_iou`` to the bit, in a third of its time."""
        left, top, right, bottom = boxes.T[..., None]
        width = (torch.minimum(right, self._edges[2]) - torch.maximum(left, self._edges[0])).clamp_(min=0)
        height = (torch.minimum(bottom, self._edges[3]) - torch.maximum(top, self._edges[1])).clamp_(min=0)
        inner = width.mul_(height)
        return inner / (box_area(boxes)[:, None] + self._areas - inner)
