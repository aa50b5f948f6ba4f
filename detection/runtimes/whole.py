"""A whole ensemble as one network: from uint8 pixels to each member's boxes, after its non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detection.preprocess import FromPixels
from detection.settings import PostprocessSettings


@torch.library.custom_op("divdet::kept_boxes", mutates_args=())
def kept_boxes(boxes: Tensor, scores: Tensor, iou: float, threshold: float) -> Tensor:
    """Which boxes non-maximum suppression keeps.

    Args:
        boxes: [G, K, 4] xyxy of G groups that do not suppress each other.
        scores: [G, K], falling in each group.
        iou: a box is dropped whose IoU with a better one is strictly above it.
        threshold: a score must be strictly higher.

    Returns:
        [G, K], 1 for those that are kept, else 0.
    """
    from torchvision.ops import batched_nms

    groups, count = scores.shape
    found = (scores > threshold).flatten().nonzero()[:, 0]
    flat = boxes.flatten(0, 1)[found].double()
    kept = found[batched_nms(flat - flat.min(), scores.flatten()[found].double(), found // count, iou)] if len(flat) else found
    result = torch.zeros(groups * count, dtype=scores.dtype, device=scores.device)
    result[kept] = 1
    return result.unflatten(0, (groups, count))


@kept_boxes.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float, threshold: float) -> Tensor:
    return torch.empty_like(scores)


class WholeDetector(nn.Module):
    """Images ``[N, size, size, 3]`` uint8 RGB to ``boxes`` [N, S, L, 4], ``scores`` [N, S, L], ``labels`` [N, S, L].

    Boxes are xyxy as fractions of the input, by falling score; behind the last one scores are 0. The same as
    ``detection.postprocess.member_boxes``.
    """

    def __init__(self, pixels: FromPixels, settings: PostprocessSettings) -> None:
        super().__init__()
        self.pixels, self.settings = pixels, settings

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        settings, model = self.settings, self.pixels.network
        boxes, scores = model.decode(*self.pixels(images))
        members, points, classes = scores.shape[0], scores.shape[2], scores.shape[3]
        boxes, scores = boxes.flatten(0, 1), scores.flatten(0, 1).transpose(1, 2)
        count = min(settings.candidates_per_class, points)
        scores, rows = scores.topk(count)  # [P, C, K]
        boxes = _at(boxes, rows.flatten(1))  # [P, C * K, 4]
        grouped = boxes.unflatten(1, (classes, count)).flatten(0, 1)
        kept = kept_boxes(grouped, scores.flatten(0, 1), settings.nms_iou, settings.score_threshold)
        scores = scores.flatten(1) * kept.unflatten(0, (-1, classes)).flatten(1)
        limit = min(settings.max_per_member or 200 * members, classes * count)
        scores, rows = scores.topk(limit)
        found = _at(boxes, rows), scores, rows // count
        return tuple(column.unflatten(0, (members, -1)).transpose(0, 1) for column in found)


def _at(boxes: Tensor, rows: Tensor) -> Tensor:
    return boxes.gather(1, rows[..., None].expand(-1, -1, 4))
