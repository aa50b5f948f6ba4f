"""PyramidNet with bottlenecks and ShakeDrop, for small images (Han et al. 2017, Yamada et al. 2019)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from classification.backbones.dividing import divide_added_channels, divide_drop_probability
from classification.backbones.initialization import with_classifier
from classification.backbones.regularization import ShakeDrop
from classification.backbones.resnet import conv_bn

EXPANSION = 4
STEM = 16  # small enough to stay undivided (paper, appendix h)


class PyramidBottleneck(nn.Module):
    """1x1, 3x3 (strided) and 1x1 to 4·inner channels, beside a shortcut whose missing channels are zeros."""

    def __init__(self, in_channels: int, inner: int, stride: int, drop: float) -> None:
        super().__init__()
        out = inner * EXPANSION
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1, self.bn2 = conv_bn(in_channels, inner, 1)
        self.conv2, self.bn3 = conv_bn(inner, inner, 3, stride)
        self.conv3, self.bn4 = conv_bn(inner, out, 1)
        self.shake = ShakeDrop(drop)
        self.downsample = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.missing = out - in_channels

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(self.bn1(x))
        residual = self.conv2(F.relu(self.bn2(residual), inplace=True))
        residual = self.conv3(F.relu(self.bn3(residual), inplace=True))
        return self.shake(self.bn4(residual)) + F.pad(self.downsample(x), (0, 0, 0, 0, 0, self.missing))


def build(
    members: int, form: str, num_classes: int, dropout: float, blocks: int, alpha: int, drop_path: float
) -> nn.Sequential:
    """Builds a member (see `BackboneSpec.build`). All blocks, ``blocks`` in each of three stages, widen by as much.

    The undivided network adds ``alpha`` channels over all blocks. ``drop_path`` is ShakeDrop's p in its last block; p
    grows linearly with depth.
    """
    total = 3 * blocks
    added = divide_added_channels(alpha, members) / total
    final_drop = divide_drop_probability(drop_path, members)
    parts = {"conv1": nn.Conv2d(3, STEM, 3, padding=1, bias=False), "bn1": nn.BatchNorm2d(STEM)}
    channels = STEM
    for stage in range(3):
        layers = []
        for block in range(blocks):
            depth = stage * blocks + block + 1
            inner, stride = round(STEM + depth * added), 2 if stage and not block else 1
            layers.append(PyramidBottleneck(channels, inner, stride, final_drop * depth / total))
            channels = inner * EXPANSION
        parts[f"layer{stage + 1}"] = nn.Sequential(*layers)
    parts |= {"bn_final": nn.BatchNorm2d(channels), "relu": nn.ReLU(inplace=True)}
    return with_classifier(parts, channels, num_classes, dropout)
