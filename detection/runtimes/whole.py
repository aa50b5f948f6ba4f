"""A whole ensemble as one network: from uint8 pixels to each member's boxes, after its non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detection.models.head import DividedDetector
from detection.prediction_settings import PostprocessSettings
from detection.preprocess import FromPixels


@torch.library.custom_op("divdet::kept_boxes", mutates_args=())
def kept_boxes(boxes: Tensor, scores: Tensor, iou: float, threshold: float) -> Tensor:
    """Which boxes non-maximum suppression keeps: an operator, since exporters cannot look into it.

    Args:
        boxes: [G, K, 4] xyxy of G groups that do not suppress each other.
        scores: [G, K], falling in each group.
        iou: a box is dropped whose IoU with a better one is strictly above it.
        threshold: a score must be strictly higher.

    Returns:
        [G, K], 1 for those that are kept, else 0.
    """
    from torchvision.ops import batched_nms  # imported here, because torchvision takes long to import

    groups, count = scores.shape
    found = (scores > threshold).flatten().nonzero()[:, 0]
    result = torch.zeros(groups * count, dtype=scores.dtype, device=scores.device)
    if len(found):
        flat = boxes.flatten(0, 1)[found].double()
        positive = flat - flat.min()  # batched_nms moves groups apart by the largest coordinate
        result[found[batched_nms(positive, scores.flatten()[found].double(), found // count, iou)]] = 1
    return result.unflatten(0, (groups, count))


@kept_boxes.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float, threshold: float) -> Tensor:
    return torch.empty_like(scores)


class Suppression(nn.Module):
    """Raw outputs to ``boxes`` [N, S, L, 4], ``scores`` [N, S, L] and ``labels`` [N, S, L] (0-based, int64).

    Boxes are xyxy as fractions of the input, by falling score. Behind a member's last box scores are 0. They are those
    of ``detection.postprocess.head_boxes``; of boxes with equal scores another one may come first.

    Args:
        model: decodes.
        settings: with ``max_per_member``.
    """

    def __init__(self, model: DividedDetector, settings: PostprocessSettings) -> None:
        super().__init__()
        self.decode, self.settings = model.decode, settings

    def forward(self, regressions: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
        settings = self.settings
        boxes, scores = self.decode(regressions, logits)
        members, _, points, classes = scores.shape
        boxes, scores = boxes.flatten(0, 1), scores.flatten(0, 1).transpose(1, 2)
        count = min(settings.candidates_per_class, points)
        scores, rows = scores.topk(count)  # [S * N, C, count]
        boxes = _at(boxes, rows.flatten(1))  # [S * N, C * count, 4]
        grouped = boxes.unflatten(1, (classes, count)).flatten(0, 1)
        kept = kept_boxes(grouped, scores.flatten(0, 1), settings.nms_iou, settings.score_threshold)
        scores = scores.flatten(1) * kept.unflatten(0, (-1, classes)).flatten(1)
        scores, rows = scores.topk(min(settings.max_per_member, classes * count))
        found = _at(boxes, rows), scores, rows // count
        return tuple(column.unflatten(0, (members, -1)).transpose(0, 1) for column in found)


class WholeDetector(nn.Module):
    """Images ``[N, size, size, 3]`` uint8 RGB to what ``Suppression`` returns."""

    def __init__(self, pixels: FromPixels, settings: PostprocessSettings) -> None:
        super().__init__()
        self.pixels, self.suppression = pixels, Suppression(pixels.network, settings)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.suppression(*self.pixels(images))


def _at(boxes: Tensor, rows: Tensor) -> Tensor:
    return boxes.gather(1, rows[..., None].expand(-1, -1, 4))
