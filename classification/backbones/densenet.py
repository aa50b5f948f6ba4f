"""DenseNet-BC for small images (Huang et al. 2017): every layer sees the outputs of all layers before it."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classification.backbones.dividing import divide_growth_rate
from classification.backbones.initialization import with_classifier


class DenseLayer(nn.Module):
    """Appends ``growth`` channels, by a 1x1 convolution to 4·growth and a 3x3: [N,C,H,W] -> [N,C+growth,H,W]."""

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


def transition(channels: int) -> nn.Sequential:
    """Halves the channels (compression 0.5) and the sides: [N,C,H,W] -> [N,C/2,H/2,W/2]."""
    conv = nn.Conv2d(channels, channels // 2, 1, bias=False)
    parts = {"bn1": nn.BatchNorm2d(channels), "relu": nn.ReLU(inplace=True), "conv1": conv, "pool": nn.AvgPool2d(2)}
    return nn.Sequential(OrderedDict(parts))


def build(members: int, form: str, num_classes: int, dropout: float, layers: int, growth: int) -> nn.Sequential:
    """Builds a member (see `BackboneSpec.build`) of ``layers`` layers a block; ``growth`` is the undivided rate."""
    growth = divide_growth_rate(growth, members)
    channels = 2 * growth
    parts: dict[str, nn.Module] = {"conv1": nn.Conv2d(3, channels, 3, padding=1, bias=False)}
    for number in (1, 2, 3):
        block = (DenseLayer(channels + k * growth, growth) for k in range(layers))
        parts[f"block{number}"] = nn.Sequential(*block)
        channels += layers * growth
        if number < 3:
            parts[f"trans{number}"] = transition(channels)
            channels //= 2
    parts |= {"bn1": nn.BatchNorm2d(channels), "relu": nn.ReLU(inplace=True)}
    return with_classifier(parts, channels, num_classes, dropout)
