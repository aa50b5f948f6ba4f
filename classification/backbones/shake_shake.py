"""Shake-Shake: residual networks of two branches that are mixed at random, for small images (Gastaldi 2017)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classification.backbones.dividing import divide_width
from classification.backbones.initialization import with_classifier
from classification.backbones.regularization import ShakeShake
from classification.backbones.resnet import conv_bn

STEM = 16


class Shortcut(nn.Module):
    """Two 1x1 convolutions, each to half of the channels; the second sees the pixels one further right and down."""

    def __init__(self, in_channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out // 2, 1, stride, bias=False)
        self.conv2 = nn.Conv2d(in_channels, out // 2, 1, stride, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.bn(torch.cat([self.conv1(x), self.conv2(F.pad(x, (-1, 1, -1, 1)))], dim=1))


def branch(in_channels: int, out: int, stride: int) -> nn.Sequential:
    """ReLU, 3x3 (strided), batch norm, ReLU, 3x3, batch norm."""
    first, second = conv_bn(in_channels, out, 3, stride), conv_bn(out, out, 3)
    return nn.Sequential(nn.ReLU(), *first, nn.ReLU(inplace=True), *second)


class ShakeBlock(nn.Module):
    """Two branches that are mixed, beside a shortcut: the input itself where the shapes allow."""

    def __init__(self, in_channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.branch1, self.branch2 = (branch(in_channels, out, stride) for _ in range(2))
        self.shake = ShakeShake()
        self.shortcut = nn.Identity() if in_channels == out and stride == 1 else Shortcut(in_channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.shake(self.branch1(x), self.branch2(x))


def build(
    members: int,
    form: str,
    num_classes: int,
    dropout: float,
    blocks: int,
    width: int,
    given: Mapping[int, int] | None = None,
) -> nn.Sequential:
    """Builds a member (see `BackboneSpec.build`) of three stages of ``blocks`` blocks.

    ``width`` is the undivided network's first stage; ``given`` as in `divide_width`.
    """
    channels, base = STEM, divide_width(width, members, given)
    parts = {"conv1": nn.Conv2d(3, STEM, 3, padding=1), "bn1": nn.BatchNorm2d(STEM), "relu": nn.ReLU(inplace=True)}
    for stage in range(3):
        out = base * 2**stage
        layers = [ShakeBlock(channels, out, 2 if stage else 1)]
        layers += [ShakeBlock(out, out, 1) for _ in range(blocks - 1)]
        parts[f"layer{stage + 1}"] = nn.Sequential(*layers)
        channels = out
    parts["last_relu"] = nn.ReLU(inplace=True)
    return with_classifier(parts, channels, num_classes, dropout)
