"""Noise that differs between forward and backward pass: ShakeDrop and Shake-Shake.

Both scale a residual by one random number on the way forward and by another on the way back. ``_scale`` says this with
a part that is detached from the graph, so that autograd, autocast and ``torch.compile`` need no special function.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _scale(x: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """``forward · x``, with the gradient of ``backward · x``."""
    shaken = x * backward
    return shaken + (x * forward - shaken).detach()


def _uniform(x: Tensor, low: float, high: float) -> Tensor:
    """A number for each image of x [N,C,H,W]: [N,1,1,1], uniform in low…high."""
    return torch.empty(len(x), 1, 1, 1, device=x.device, dtype=x.dtype).uniform_(low, high)


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
        kept = torch.empty(len(x), 1, 1, 1, device=x.device, dtype=x.dtype).bernoulli_(1 - self.p)
        alpha, beta = _uniform(x, -1, 1), _uniform(x, 0, 1)
        return _scale(x, kept + alpha - kept * alpha, kept + beta - kept * beta)

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
        alpha, beta = _uniform(first, 0, 1), _uniform(first, 0, 1)
        return _scale(first, alpha, beta) + _scale(second, 1 - alpha, 1 - beta)
