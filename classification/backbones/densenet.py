"""DenseNet-BC for small images (Huang et al. 2017): every layer sees the outputs of all layers before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classification.backbones.initialization import kaiming
from classification.backbones.regularization import Dropout


class DenseLayer(nn.Module):
    """Batch norm, ReLU, 1x1 convolution to 4·growth; the same, 3x3 to growth: [N,C,H,W] -> [N,C+growth,H,W]."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(F.relu(self.bn1(x), inplace=True))
        new = self.conv2(F.relu(self.bn2(new), inplace=True))
        return torch.cat([x, new], dim=1)


class Transition(nn.Module):
    """Halves the channels (compression 0.5) and the sides: [N,C,H,W] -> [N,C/2,H/2,W/2]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv1(F.relu(self.bn1(x), inplace=True)))


class DenseNet(nn.Module):
    """One member: a stem of 2·growth channels, three blocks with transitions between. [N,3,H,W] -> [N,num_classes]."""

    def __init__(self, layers: int, growth: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        channels = 2 * growth
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        for number in (1, 2, 3):
            block = nn.Sequential(*(DenseLayer(channels + k * growth, growth) for k in range(layers)))
            self.add_module(f"block{number}", block)
            channels += layers * growth
            if number < 3:
                self.add_module(f"trans{number}", Transition(channels))
                channels //= 2
        self.bn1 = nn.BatchNorm2d(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trans1(self.block1(self.conv1(x)))
        x = self.block3(self.trans2(self.block2(x)))
        x = self.pool(F.relu(self.bn1(x), inplace=True))
        return self.fc(self.dropout(x.flatten(1)))


@dataclass(frozen=True)
class DenseNetSpec:
    """``layers`` bottlenecks in each of three blocks; ``divide`` gives a member's growth rate for S."""

    layers: int
    divide: Callable[[int], int]
    forms: tuple[str, ...] = ("cifar",)

    def build(self, members: int, form: str, num_classes: int, dropout: float) -> DenseNet:
        """One of S members."""
        return DenseNet(self.layers, self.divide(members), num_classes, dropout)
