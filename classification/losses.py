"""The losses of co-training (paper, Sec. III-B b)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from classification.settings import Divergence


def js_divergence(logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the members' predictions (Eq. 8): finite logits [S,N,C] -> nats [N] in [0, ln S].

    Computed as the members' mean KL divergence from their mixture. This equals Eq. 8, but does not subtract two
    nearly equal entropies. It uses log-probabilities, so that a probability of 0 contributes 0.
    """
    log_p = _full_precision(logits).log_softmax(-1)
    log_mixture = log_p.logsumexp(0) - math.log(len(logits))
    return (log_p.exp() * (log_p - log_mixture)).sum(-1).mean(0)


def kl_divergence(logits: Tensor) -> Tensor:
    """Deep mutual learning's divergence (Zhang et al. 2018, paper ref. [12]): finite logits [S,N,C] -> nats [N].

    This is the sum over members i of the mean over all other members j of KL(p_j ‖ p_i), 0 for a single member. p_j is
    detached: member i is drawn towards the others, not they towards it.
    """
    log_p = _full_precision(logits).log_softmax(-1)
    peers = log_p.detach()[:, None]
    pairs = (peers.exp() * (peers - log_p)).sum(-1)  # [j,i,N], 0 where i = j
    return pairs.sum((0, 1)) / max(len(logits) - 1, 1)


def co_training_loss(
    logits: Tensor, targets: Tensor, cot_weight: float, label_smoothing: float = 0.0, divergence: Divergence = "js"
) -> dict[str, Tensor]:
    """Sums the members' cross-entropies and λ times their divergence (Eq. 9).

    Args:
        logits: [S,N,C].
        targets: class indices [N], or class probabilities [N,C] of mixed images.
        cot_weight: λ.

    Returns:
        Scalars ``loss``, ``ce`` (the sum over the members, each averaged over the batch) and ``cot`` (without λ).
    """
    members = len(logits)
    repeated = targets.repeat(members, *[1] * (targets.dim() - 1))
    flat = _full_precision(logits).flatten(0, 1)
    ce = members * F.cross_entropy(flat, repeated, label_smoothing=label_smoothing)
    divergences = {"js": js_divergence, "kl": kl_divergence}
    cot = divergences[divergence](logits).mean()
    return {"loss": ce + cot_weight * cot, "ce": ce, "cot": cot}


def cot_weight_at(epoch: float, weight: float, warmup_epochs: float) -> float:
    """λ of a step that ends at ``epoch``: grows linearly from 0 to ``weight`` in ``warmup_epochs`` (Sec. III-B b)."""
    return weight * min(epoch / warmup_epochs, 1.0) if warmup_epochs else weight


def _full_precision(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
