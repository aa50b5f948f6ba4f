"""Shake-Shake: residual networks of two branches that are mixed at random (Gastaldi 2017), for small images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classification.backbones.initialization import kaiming
from classification.backbones.regularization import Dropout, ShakeShake


class Shortcut(nn.Module):
    """Two 1x1 convolutions, each to half of the channels: of every ``stride``-th pixel, and of those one further right
    and down.
    """

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
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
        nn.Conv2d(out, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
    )


class ShakeBlock(nn.Module):
    """Two branches, mixed, beside a shortcut that is the input itself where the shapes allow."""

    def __init__(self, in_channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.branch1, self.branch2 = (branch(in_channels, out, stride) for _ in range(2))
        self.shake = ShakeShake()
        self.shortcut = nn.Identity() if in_channels == out and stride == 1 else Shortcut(in_channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.shake(self.branch1(x), self.branch2(x))


class ShakeShakeNet(nn.Module):
    """One member: a stem of 16 channels and three stages of base, 2·base, 4·base. [N,3,H,W] -> [N,num_classes]."""

    def __init__(self, blocks: int, base: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        channels = 16
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        for stage in range(3):
            out = base * 2**stage
            layers = [ShakeBlock(channels, out, 2 if stage else 1)]
            layers += [ShakeBlock(out, out, 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
            channels = out
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.layer3(self.layer2(self.layer1(x))), inplace=True)
        return self.fc(self.dropout(self.pool(x).flatten(1)))


@dataclass(frozen=True)
class ShakeShakeSpec:
    """``blocks`` per stage; ``divide`` gives a member's base width for S."""

    blocks: int
    divide: Callable[[int], int]
    forms: tuple[str, ...] = ("cifar",)

    def build(self, members: int, form: str, num_classes: int, dropout: float) -> ShakeShakeNet:
        """One of S members."""
        return ShakeShakeNet(self.blocks, self.divide(members), num_classes, dropout)
