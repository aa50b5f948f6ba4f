"""S members as one network, and the rules that combine their outputs (paper Sec. III-B and IV-C, Tables VI, VIII)."""

from __future__ import annotations

from itertools import combinations
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classification.backbones.registry import create_members
from divdet.engine.concurrency import Runner
from divdet.engine.errors import UserError
from divdet.engine.members import present

Combination = Literal["mean", "max", "geometric"]


class Ensemble(nn.Module):
    """S independent networks, its ``members``."""

    def __init__(self, members: nn.ModuleList) -> None:
        super().__init__()
        self.members = members
        self.concurrent: Runner | None = None  # runs `branches()` at once in evaluation mode

    def forward(self, x: Tensor) -> Tensor:
        """Logits [S,N,C] of images [N,3,H,W] that every member sees, or [S,N,3,H,W], one view for each.

        Where other processes have some of the members, the logits are those of the members that are here.
        """
        members = len(self.members)
        if x.dim() != 4 and not (x.dim() == 5 and len(x) == members):
            raise ValueError(f"expected [N,3,H,W] or, one view a member, [{members},N,3,H,W], not {list(x.shape)}")
        views = x.unbind() if x.dim() == 5 else (x,) * members
        if self.concurrent is not None and not self.training:
            return self.concurrent(views)
        return torch.stack([member(views[number]) for number, member in present(self.members)])

    def branches(self) -> list[nn.Module]:
        """For each member, the network from its view to its logits [N,C]."""
        return list(self.members)


class MeanOfMembers(nn.Module):
    """An ensemble as a single network: [N,3,H,W] -> mean logits [N,C].

    As members of another `Ensemble` they are an ensemble of ensembles (paper, Sec. IV-C e and Fig. 6).
    """

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, x: Tensor) -> Tensor:
        return combine(self.ensemble(x))


def create_ensemble(backbone: str, members: int, num_classes: int, dataset: str, **options: Any) -> Ensemble:
    """The backbone divided into S independently initialized members. Arguments and errors as `create_members`."""
    return Ensemble(create_members(backbone, members, num_classes, dataset, **options))


def combine(logits: Tensor, how: Combination = "mean", softmax: bool = False) -> Tensor:
    """Combines the outputs of S members: logits [S,N,C] -> scores [N,C] in float32 or wider.

    Args:
        how: ``mean`` of the members (the paper's choice, Sec. III-B). ``max`` over the members, class by class: its
            first class is the most confident member's (Sec. IV-C b, which leaves the other ranks open).
            ``geometric`` mean of the probabilities (Eq. 10), which does not add up to 1.
        softmax: combine probabilities rather than logits; ``geometric`` always does.

    Raises:
        UserError: for any other ``how``.
    """
    if not isinstance(logits, Tensor) or logits.dim() != 3 or not len(logits):
        given = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"expected logits [S,N,C], a tensor of at least one member, not {given}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    outputs = logits.softmax(-1) if softmax else logits
    match how:
        case "mean":
            return outputs.mean(0)
        case "max":
            return outputs.amax(0)
        case "geometric":
            return logits.log_softmax(-1).mean(0).exp()
    raise UserError(f"members are combined by one of {', '.join(get_args(Combination))}, not {how!r}")


def cosine_similarity(logits: Tensor) -> float | None:
    """Cosine of two members' logits [S,N,C], averaged over images and pairs of members, in [-1, 1] (Table VIII).

    None for a single member.
    """
    pairs = [F.cosine_similarity(a, b, dim=-1).mean() for a, b in combinations(logits.double(), 2)]
    return torch.stack(pairs).mean().item() if pairs else None
