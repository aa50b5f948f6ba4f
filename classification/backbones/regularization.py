"""Random factors in training: ShakeDrop, Shake-Shake, stochastic depth and dropout.

The first two scale a residual by one random number on the way forward and by another on the way back. ``_scale`` says
this with a part that is detached from the graph, so that autograd, autocast and ``torch.compile`` need no special
function.

Factors are drawn and applied in float32 also where autocast runs the network in half precision, and only the result is
rounded. In bf16 1 + α - α is not 1, and 1 / 0.9 is 1.109 instead of 1.111: an error of the same sign for all values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth


def _factors(x: Tensor) -> Tensor:
    """An empty factor [N,1,1,1] for each image of x [N,C,H,W], in float32 or wider."""
    return torch.empty(len(x), 1, 1, 1, device=x.device, dtype=_full_dtype(x))


def _full_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _scale(x: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """``forward · x``, with the gradient of ``backward · x``, in the factors' dtype."""
    shaken = x * backward
    return shaken + (x * forward - shaken).detach()


class ShakeDrop(nn.Module):
    """ShakeDrop (Yamada et al. 2019, Eq. 6 and Sec. 3.2) of a residual [N,C,H,W].

    In training, with b of Bernoulli(1 - p), α uniform in -1…1 and β uniform in 0…1, all drawn for each image: forward
    multiplies by b + α - bα, backward by b + β - bβ. In evaluation it multiplies by the mean of the former, 1 - p.

    Args:
        p: probability of shaking, 0…1.
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

    def extra_repr(self) -> str:
        return f"p={self.p:.4g}"


class ShakeShake(nn.Module):
    """Shake-Shake (Gastaldi 2017) of two branches [N,C,H,W]: ``α · first + (1 - α) · second``.

    α is uniform in 0…1 for each image in training, with a fresh one on the way back ("Shake-Shake-Image"), and 0.5 in
    evaluation.
    """

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        if not self.training:
            return 0.5 * (first + second)
        alpha, beta = _factors(first).uniform_(0, 1), _factors(first).uniform_(0, 1)
        return (_scale(first, alpha, beta) + _scale(second, 1 - alpha, 1 - beta)).to(first.dtype)


class DropPath(StochasticDepth):
    """torchvision's stochastic depth of a residual [N,...] (Huang et al. 2016): in training it is dropped with
    probability p for each image, and divided by 1 - p where it stays.

    Args:
        p: probability of dropping, below 1.
    """

    def __init__(self, p: float) -> None:
        super().__init__(p, "row")

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(_full_dtype(x))).to(x.dtype) if self.training else x


class Dropout(nn.Dropout):
    """PyTorch's dropout, of which the CPU would round the factor 1 / (1 - p) to the input's precision."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(_full_dtype(x))).to(x.dtype) if self.training else x


def draw_in_full_precision(network: nn.Module) -> nn.Module:
    """Replaces torchvision's and timm's stochastic depth and dropout by those of this module; returns the network."""
    for module in network.modules():
        for name, child in module.named_children():
            match type(child).__name__:
                case "StochasticDepth":  # torchvision's
                    setattr(module, name, DropPath(child.p))
                case "DropPath" if child.scale_by_keep:  # timm's
                    setattr(module, name, DropPath(child.drop_prob))
                case "Dropout":
                    setattr(module, name, Dropout(child.p))
    return network
