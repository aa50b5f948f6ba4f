"""PyramidNet with bottlenecks and ShakeDrop, for small images (Han et al. 2017, Yamada et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from classification.backbones.dividing import divide_added_channels, divide_drop_probability
from classification.backbones.initialization import kaiming
from classification.backbones.regularization import Dropout, ShakeDrop

EXPANSION = 4
_STEM = 16  # not divided: it is small (paper, appendix h)


class PyramidBottleneck(nn.Module):
    """Batch norm, 1x1, 3x3 (strided), 1x1 to 4·inner channels, beside a shortcut whose missing channels are zeros."""

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


class PyramidNet(nn.Module):
    """One member: a stem of 16 channels, then three stages that widen by the same amount in every block.

    [N,3,H,W] -> [N,num_classes].

    Args:
        blocks: bottlenecks per stage.
        added: channels that each block adds to its inner width, before rounding.
        final_drop: ShakeDrop's p in the last block; it grows linearly with depth.
    """

    def __init__(self, blocks: int, added: float, num_classes: int, final_drop: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        channels, total = _STEM, 3 * blocks
        for stage in range(3):
            layers = []
            for block in range(blocks):
                depth = stage * blocks + block + 1
                inner = round(_STEM + depth * added)
                stride = 2 if stage and not block else 1
                layers.append(PyramidBottleneck(channels, inner, stride, final_drop * depth / total))
                channels = inner * EXPANSION
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.bn_final = nn.BatchNorm2d(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)))))
        x = self.pool(F.relu(self.bn_final(x), inplace=True))
        return self.fc(self.dropout(x.flatten(1)))


@dataclass(frozen=True)
class PyramidNetSpec:
    """``blocks`` per stage; ``alpha`` channels added over all of them; ``drop_path`` of the last block's ShakeDrop. The
    last two are of the undivided network.
    """

    blocks: int
    alpha: int
    drop_path: float
    forms: tuple[str, ...] = ("cifar",)

    def build(self, members: int, form: str, num_classes: int, dropout: float) -> PyramidNet:
        """One of S members."""
        added = divide_added_channels(self.alpha, members) / (3 * self.blocks)
        drop = divide_drop_probability(self.drop_path, members)
        return PyramidNet(self.blocks, added, num_classes, drop, dropout)
