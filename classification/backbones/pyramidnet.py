"""PyramidNet with bottlenecks and ShakeDrop, for small images (Han et al. 2017, Yamada et al. 2019)."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from classification.backbones.dividing import divide_added_channels, divide_drop_probability
from classification.backbones.initialization import kaiming
from classification.backbones.regularization import Dropout, ShakeDrop

EXPANSION = 4
STEM = 16  # small enough to stay undivided (paper, appendix h)


class PyramidBottleneck(nn.Module):
    """1x1, 3x3 (strided) and 1x1 to 4·inner channels, beside a shortcut whose missing channels are zeros."""

    def __init__(self, in_channels: int, inner: int, stride: int, drop: float) -> None:
        super().__init__()
        out = inner * EXPANSION
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out, 1, bias=False)
        self.bn4 = nn.BatchNorm2d(out)
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
    """Builds one of S members; see `BackboneSpec.build` for the common arguments.

    Its three stages widen by the same amount in every block.

    Args:
        blocks: bottlenecks in each stage.
        alpha: channels that the undivided network adds over all blocks.
        drop_path: ShakeDrop's p in the undivided network's last block; it grows linearly with depth.
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
    parts |= {"bn_final": nn.BatchNorm2d(channels), "relu": nn.ReLU(inplace=True), "pool": nn.AdaptiveAvgPool2d(1)}
    parts |= {"flatten": nn.Flatten(), "dropout": Dropout(dropout), "fc": nn.Linear(channels, num_classes)}
    network = nn.Sequential(OrderedDict(parts))
    kaiming(network)
    return network
