"""Random factors in training: ShakeDrop, Shake-Shake, stochastic depth and dropout.

All factors are drawn and applied in float32, also under autocast, and only the result is rounded. In bf16 1 + α - α
is not 1, and 1 / 0.9 is 1.109 instead of 1.111: an error of the same sign for all values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _full_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _factors(x: Tensor) -> Tensor:
    """An uninitialized factor [N,1,…] for each image of x [N,…]."""
    return torch.empty(len(x), *[1] * (x.dim() - 1), device=x.device, dtype=_full_dtype(x))


def _scale(x: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """``forward · x``, with the gradient of ``backward · x``.

    Unlike a custom autograd function this works under autocast and torch.compile as it stands.
    """
    shaken = x * backward
    return shaken + (x * forward - shaken).detach()


class ShakeDrop(nn.Module):
    """ShakeDrop of a residual [N,C,H,W] (Yamada et al. 2019, Eq. 6 and Sec. 3.2).

    In training, forward multiplies by b + α - bα and backward by b + β - bβ. b ~ Bernoulli(1 - p), α ~ U(-1, 1) and
    β ~ U(0, 1) are drawn for each image. Evaluation multiplies by the mean of the former, 1 - p.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (1 - self.p)
        kept = _factors(x).bernoulli_(1 - self.p)
        alpha, beta = _factors(x).uniform_(-1, 1), _factors(x).uniform_(0, 1)
        # b + α - bα, written so that it is exactly 1 where b is
        return _scale(x, kept + (1 - kept) * alpha, kept + (1 - kept) * beta).to(x.dtype)


class ShakeShake(nn.Module):
    """Shake-Shake of two branches [N,C,H,W]: ``α · first + (1 - α) · second`` (Gastaldi 2017).

    In training α ~ U(0, 1) is drawn for each image, and drawn anew for the way back ("Shake-Shake-Image"). In
    evaluation it is 0.5.
    """

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        if not self.training:
            return 0.5 * (first + second)
        alpha, beta = _factors(first).uniform_(0, 1), _factors(first).uniform_(0, 1)
        return (_scale(first, alpha, beta) + _scale(second, 1 - alpha, 1 - beta)).to(first.dtype)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): drops each image of [N,…] with probability p, as torchvision's "row"."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return (x * _factors(x).bernoulli_(1 - self.p).div_(1 - self.p)).to(x.dtype)


class Dropout(nn.Dropout):
    """PyTorch's dropout in float32: on a CPU it would round its factor 1 / (1 - p) to the input's precision."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(_full_dtype(x))).to(x.dtype) if self.training else x


def draw_in_full_precision(network: nn.Module) -> nn.Module:
    """Replaces torchvision's and timm's stochastic depth and dropout by those above; returns the network."""
    for module in network.modules():
        for name, child in module.named_children():
            match type(child).__name__:
                case "StochasticDepth":  # torchvision's
                    setattr(module, name, DropPath(child.p))
                case "DropPath" if getattr(child, "scale_by_keep", False):  # timm's
                    setattr(module, name, DropPath(child.drop_prob))
                case "Dropout":
                    setattr(module, name, Dropout(child.p))
    return network
