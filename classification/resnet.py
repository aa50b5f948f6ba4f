"""ResNet, WRN and ResNeXt: one network of residual stages, for small images (CIFAR) and large ones (ImageNet).

The ImageNet form has the changes of He et al., "Bag of tricks" (paper ref. [51]): a stem of three 3x3 convolutions,
and an average pool before the 1x1 convolution of a strided shortcut, which the CIFAR form shares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

DETECTION_STAGES = 3


@dataclass(frozen=True)
class Widths:
    """Channels of one member: stage k (from 0) has inner·2^k in its 3x3 convolutions and gives out·2^k.

    The deep stem has ``stem``, ``stem`` and 2·``stem`` channels, the CIFAR stem ``stem``.
    """

    stem: int
    inner: int
    out: int
    groups: int = 1


def conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias that keeps the size (divided by ``stride``, rounded up), and its batch norm."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, the first strided, beside a shortcut: [N,C,H,W] -> [N,out,H/stride,W/stride]."""

    def __init__(
        self,
        in_channels: int,
        inner: int,
        out: int,
        stride: int = 1,
        groups: int = 1,
        downsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(in_channels, inner, 3, stride, groups)
        self.conv2, self.bn2 = conv_bn(inner, out, 3, groups=groups)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)).add_(shortcut), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided, grouped), 1x1 beside a shortcut: [N,C,H,W] -> [N,out,H/stride,W/stride]."""

    def __init__(
        self,
        in_channels: int,
        inner: int,
        out: int,
        stride: int = 1,
        groups: int = 1,
        downsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(in_channels, inner, 1)
        self.conv2, self.bn2 = conv_bn(inner, inner, 3, stride, groups)
        self.conv3, self.bn3 = conv_bn(inner, out, 1)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)).add_(shortcut), inplace=True)


Block = type[BasicBlock] | type[Bottleneck]


def stage(block: Block, count: int, in_channels: int, inner: int, out: int, groups: int, first: str) -> nn.Sequential:
    """``count`` blocks. ``first`` says how the first one begins: ``plain`` at stride 1; ``strided`` at stride 2, with
    an average pool before its shortcut's convolution; ``unstrided`` at stride 1 with the keys of ``strided``, so that
    weights trained with the stride load.
    """
    stride = 2 if first == "strided" else 1
    pool = {
        "plain": [],
        "strided": [nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)],
        "unstrided": [nn.Identity()],
    }[first]
    downsample = None
    if pool or in_channels != out:
        downsample = nn.Sequential(*pool, *conv_bn(in_channels, out, 1))
    blocks = [block(in_channels, inner, out, stride, groups, downsample)]
    blocks += [block(out, inner, out, groups=groups) for _ in range(count - 1)]
    return nn.Sequential(*blocks)


def cifar_stem(width: int) -> nn.Sequential:
    """[N,3,H,W] -> [N,width,H,W]."""
    return nn.Sequential(*conv_bn(3, width, 3), nn.ReLU(inplace=True))


def deep_stem(width: int) -> nn.Sequential:
    """[N,3,H,W] -> [N,2·width,H/4,W/4]."""
    return nn.Sequential(
        *conv_bn(3, width, 3, stride=2),
        nn.ReLU(inplace=True),
        *conv_bn(width, width, 3),
        nn.ReLU(inplace=True),
        *conv_bn(width, 2 * width, 3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )


class ResNet(nn.Module):
    """One member: ``layer0`` (stem), ``layer1`` … (stages), ``fc``. [N,3,H,W] -> logits [N,num_classes].

    With ``num_classes=None`` it is SSD300's feature extractor (paper Sec. V): stem and stages 1 to 3, the third at
    stride 1, no classifier: [N,3,300,300] -> [N,C,38,38]. Its keys and shapes are those of the classifier's first
    layers.

    ``out_channels`` lists the channels after ``layer0``, ``layer1``, ….

    Convolutions start from Kaiming's normal distribution (fan out, gain of ReLU; paper Sec. IV-A), batch norms from
    weight 1 and bias 0, the classifier from PyTorch's default.
    """

    def __init__(
        self,
        block: Block,
        blocks: tuple[int, ...],
        widths: Widths,
        deep: bool,
        num_classes: int | None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.layer0 = deep_stem(widths.stem) if deep else cifar_stem(widths.stem)
        self.out_channels = [2 * widths.stem if deep else widths.stem]
        first = ["plain"] + ["strided"] * (len(blocks) - 1)
        if num_classes is None:
            blocks, first = blocks[:DETECTION_STAGES], ["plain", "strided", "unstrided"]
        self.stages = len(blocks)
        for k, (count, begin) in enumerate(zip(blocks, first, strict=True)):
            inner, out = widths.inner * 2**k, widths.out * 2**k
            self.add_module(
                f"layer{k + 1}", stage(block, count, self.out_channels[-1], inner, out, widths.groups, begin)
            )
            self.out_channels.append(out)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = None if num_classes is None else nn.Linear(self.out_channels[-1], num_classes)
        for module in self.modules():
            # Drawing on the meta device gives nothing and, the first time, takes seconds.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        for k in range(self.stages + 1):
            x = self.get_submodule(f"layer{k}")(x)
        if self.fc is None:
            return x
        return self.fc(self.dropout(self.pool(x).flatten(1)))


@dataclass(frozen=True)
class ResNetSpec:
    """A named network: the forms it exists in, its blocks per stage, and the rule that divides its widths into S.

    The CIFAR form has the first three stages.
    """

    forms: tuple[str, ...]
    block: Block
    blocks: tuple[int, ...]
    divide: Callable[[int], Widths]

    def build(self, members: int, form: str, num_classes: int | None, dropout: float) -> ResNet:
        """One of ``members`` networks; ``num_classes=None`` gives SSD300's feature extractor."""
        deep = form == "imagenet"
        blocks = self.blocks if deep else self.blocks[:3]
        return ResNet(self.block, blocks, self.divide(members), deep, num_classes, dropout)
