"""The multibox loss of S members (Liu et al. 2016, Eq. 1 to 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from classification.losses import js_divergence
from detection.models.matcher import losses_of_members, rows_of, sums_of_members


def multibox_loss(
    deltas: Tensor,
    logits: Tensor,
    target_deltas: Tensor,
    target_classes: Tensor,
    neg_to_pos_ratio: float = 3.0,
    cot_weight: float | None = None,
    class_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Localization plus classification loss: mean over the batch, sum over the members.

    Localization is smooth L1 (β = 1) at positives. Classification is cross-entropy at positives and at the image's
    ``neg_to_pos_ratio`` × positives hardest negatives. Both are divided by the image's number of positives, as in the
    released code. (torchvision divides by the batch's positives, so learning rates do not transfer.) An image without
    objects counts as one positive: its ``neg_to_pos_ratio`` hardest negatives, divided by one. The released code
    ignores such images. Everything is computed in float32 and nothing syncs with a GPU.

    Args:
        deltas: ``[S, N, A, 4]``.
        logits: ``[S, N, A, C + 1]``, background at index 0.
        target_deltas: ``[N, A, 4]``.
        target_classes: ``[N, A]``, 0 background.
        cot_weight: λ of the members' Jensen-Shannon divergence (Eq. 8), which the paper uses for classifiers only. It
            is taken at each default box that is positive or mined by any member, and divided as the classification
            loss is. None leaves it out.
        class_weights: ``[C + 1]``, factors on the cross-entropy by true class, background first; None: all 1. Divisors
            do not change.

    Returns:
        Scalars, summed over the members: ``loss`` (for backward), ``localization``, ``classification``, and ``cot``
        (without λ) if ``cot_weight`` is given. Of several members also ``loss_member1`` …, each one's without ``cot``.
    """
    members, images, anchors, _ = logits.shape
    positive = target_classes > 0
    positives = positive.sum(dim=1).clamp(min=1)
    weight = 1.0 / (positives * images)

    share = (positive * weight[:, None]).flatten()  # [N * A], of the loss; 0 at what does not count
    rows = rows_of(positive)
    found, wanted_deltas = deltas.flatten(1, 2)[:, rows].float(), target_deltas.flatten(0, 1)[rows].float()
    distance = F.smooth_l1_loss(found, wanted_deltas.expand_as(found), reduction="none")
    localized = distance.sum(-1) * share[rows]  # [S, rows]
    localization = localized.sum()

    values = logits.detach().float()
    background = (values.logsumexp(-1) - values[..., 0]).masked_fill(positive, -torch.inf).flatten(0, 1)  # [S * N, A]
    wanted = (neg_to_pos_ratio * positives).clamp(max=anchors).long().repeat(members)
    most = int(wanted.max()) if wanted.device.type == "cpu" else anchors
    hardest = background.topk(most, dim=1).indices
    mined = torch.zeros_like(background, dtype=torch.bool)
    mined.scatter_(1, hardest, torch.arange(most, device=logits.device) < wanted[:, None])
    used = mined.unflatten(0, (members, images)) & ~positive | positive  # [S, N, A]
    rows = rows_of(used)
    share = (used * weight[:, None]).flatten()
    classes = target_classes.expand_as(used).flatten()
    entropy = F.cross_entropy(logits.flatten(0, 2)[rows].float(), classes[rows], class_weights, reduction="none")
    entropy = entropy * share[rows]
    classification = entropy.sum()
    losses = {"loss": localization + classification, "localization": localization, "classification": classification}
    parts = localized.detach().sum(1), sums_of_members(entropy.detach(), rows, members, images * anchors)
    losses |= losses_of_members(sum(parts))
    if cot_weight is None:
        return losses
    used_by_any = used.any(dim=0)
    rows = rows_of(used_by_any)
    share = (used_by_any * weight[:, None]).flatten()
    cot = (js_divergence(logits.flatten(1, 2)[:, rows]) * share[rows]).sum()
    return losses | {"loss": losses["loss"] + cot_weight * cot, "cot": cot}
