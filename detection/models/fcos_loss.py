"""The loss of FCOS for S members: which point should find which box, and how well it does."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_area, generalized_box_iou_loss, sigmoid_focal_loss

from classification.losses import js_divergence
from detection.models.matcher import losses_of_members, rows_of

RADIUS = 1.5  # of the square around a box's center whose points are positive, in strides
REACH = (4, 8)  # range of a level's largest distance to a side, in strides; from 0 in the first, to any in the last


def match(points: Tensor, steps: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """The box that each point should find, as in torchvision: the smallest of those that it may.

    A point may find a box that it lies in, near whose center it is (``RADIUS``), and whose size is its level's
    (``REACH``).

    Args:
        points: ``[A, 2]`` in pixels, by level.
        steps: ``[A]``, stride of their level.
        boxes: ``[N, M, 4]`` xyxy in pixels; at least one, if only padding.
        labels: ``[N, M]``; -1 for padding.

    Returns:
        Indices ``[N, A]`` of boxes; -1 for background.
    """
    low = (REACH[0] * steps).masked_fill(steps == steps[0], 0)[:, None]
    high = (REACH[1] * steps).masked_fill(steps == steps[-1], torch.inf)[:, None]
    found = []
    for own, real in zip(boxes, labels >= 0, strict=True):  # of a batch of crowded images it would take gigabytes
        centers = (own[:, :2] + own[:, 2:]) / 2
        near = (points[:, None] - centers).abs().amax(-1) < RADIUS * steps[:, None]
        distances = torch.cat([points[:, None] - own[:, :2], own[:, 2:] - points[:, None]], dim=-1)  # [A, M, 4]
        inside, farthest = distances.amin(-1) > 0, distances.amax(-1)
        fits = near & inside & (farthest > low) & (farthest < high) & real
        area, index = box_area(own).expand_as(fits).masked_fill(~fits, torch.inf).min(dim=1)
        found.append(index.masked_fill(area.isinf(), -1))
    return torch.stack(found)


def fcos_loss(
    regressions: Tensor,
    logits: Tensor,
    points: Tensor,
    steps: Tensor,
    boxes: Tensor,
    labels: Tensor,
    cot_weight: float | None = None,
    class_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Classification, localization and centerness, each divided by the batch's positives; summed over the members.

    Classification is the focal loss at all points, localization the generalized IoU's and centerness binary
    cross-entropy, both at positives. Of one member it is torchvision's loss. Everything is computed in float32.

    Args:
        regressions, logits: of ``FCOS``.
        points, steps, boxes, labels: as of ``match``.
        cot_weight: λ of the members' Jensen-Shannon divergence (paper, Eq. 8). At each positive it is taken of each
            class's probability and its complement, and summed over the classes. None leaves it out.
        class_weights: ``[C + 1]``, factors on a point's focal loss by its class, background first; None: all 1.

    Returns:
        Scalars, summed over the members: ``loss`` (for backward), ``localization``, ``classification``, ``centerness``,
        and ``cot`` (without λ) if ``cot_weight`` is given. Of several members also ``loss_member1`` …, each one's
        without ``cot``.
    """
    if not labels.shape[1]:
        boxes, labels = F.pad(boxes, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)
    matched = match(points, steps, boxes, labels)
    positive, learnt = matched >= 0, matched.clamp(min=0)
    divisor = positive.sum().clamp(min=1)

    classes = labels.gather(1, learnt).masked_fill(~positive, -1)
    wanted = (classes[..., None] == torch.arange(logits.shape[-1], device=logits.device)).float()
    focal = sigmoid_focal_loss(logits.float(), wanted.expand_as(logits))
    if class_weights is not None:
        focal = focal * class_weights[classes + 1][..., None]
    classification = focal.sum() / divisor

    rows = rows_of(positive)
    share = positive.flatten()[rows] / divisor  # of the loss; 0 at what does not count
    own = boxes.gather(1, learnt[..., None].expand(-1, -1, 4)).flatten(0, 1)[rows]
    place, step = points.repeat(len(boxes), 1)[rows], steps.repeat(len(boxes))[rows]
    sides = torch.cat([place - own[:, :2], own[:, 2:] - place], dim=-1).where(share[:, None] > 0, 1.0)
    found, centerness = regressions.flatten(1, 2)[:, rows].float().split([4, 1], dim=-1)

    distance = generalized_box_iou_loss(_around(found * step[:, None]), _around(sides).expand_as(found))
    localized = distance * share
    localization = localized.sum()

    shorter, longer = (side(sides.unflatten(-1, (2, 2)), dim=-2) for side in (torch.amin, torch.amax))
    ideal = (shorter / longer).prod(-1).sqrt().expand(len(logits), -1)
    entropy = F.binary_cross_entropy_with_logits(centerness[..., 0], ideal, reduction="none")
    entropy = entropy * share
    centered = entropy.sum()

    losses = {
        "loss": localization + classification + centered,
        "localization": localization,
        "classification": classification,
        "centerness": centered,
    }
    own = focal.detach().flatten(1).sum(1) / divisor + (localized + entropy).detach().sum(1)
    losses |= losses_of_members(own)
    if cot_weight is None:
        return losses
    own_logits = logits.flatten(1, 2)[:, rows]
    of_each = js_divergence(torch.stack([own_logits, torch.zeros_like(own_logits)], dim=-1).flatten(1, 2))
    cot = (of_each.unflatten(0, own_logits.shape[1:]).sum(-1) * share).sum()
    return losses | {"loss": losses["loss"] + cot_weight * cot, "cot": cot}


def _around(sides: Tensor) -> Tensor:
    """Boxes xyxy around the origin from its distances to their left, top, right and lower sides, ``[..., 4]`` each."""
    return torch.cat([-sides[..., :2], sides[..., 2:]], dim=-1)
