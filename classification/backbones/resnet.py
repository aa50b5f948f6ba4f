"""ResNet, WRN, ResNeXt and SENet: one network of residual stages, for small images (CIFAR) and large ones (ImageNet).

The ImageNet form has the changes of He et al., "Bag of tricks" (paper ref. [51]): a stem of three 3x3 convolutions,
and an average pool before the 1x1 convolution of a strided shortcut, which the CIFAR form shares. The SE networks add
squeeze-and-excitation (Hu et al. 2018) before a block's shortcut is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import SqueezeExcitation

from classification.backbones.initialization import kaiming
from classification.backbones.regularization import Dropout

DETECTION_STAGES = 3
DETECTION_INPUT = 300  # pixels a side of SSD300's images


@dataclass(frozen=True)
class Widths:
    """Channels of one member: stage k (from 0) has inner·2^k in its 3x3 convolutions and gives out·2^k.

    The CIFAR stem has ``stem`` channels, the deep one ``stem``, ``stem`` and ``stem_out``, or 2·``stem`` where that
    is None.
    """

    stem: int
    inner: int
    out: int
    groups: int = 1
    stem_out: int | None = None


def conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias that keeps the size (divided by ``stride``, rounded up), and its batch norm."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


def squeeze_excitation(channels: int, reduction: int | None) -> nn.Module:
    """Squeeze-and-excitation over channels / ``reduction`` hidden ones, or nothing where that is None."""
    return SqueezeExcitation(channels, channels // reduction) if reduction else nn.Identity()


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, the first strided, beside a shortcut: [N,C,H,W] -> [N,out,H/stride,W/stride]."""

    def __init__(
        self,
        in_channels: int,
        inner: int,
        out: int,
        stride: int = 1,
        groups: int = 1,
        reduction: int | None = None,
        downsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(in_channels, inner, 3, stride, groups)
        self.conv2, self.bn2 = conv_bn(inner, out, 3, groups=groups)
        self.se = squeeze_excitation(out, reduction)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.se(self.bn2(self.conv2(x))).add_(shortcut), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided, grouped), 1x1 beside a shortcut: [N,C,H,W] -> [N,out,H/stride,W/stride]."""

    def __init__(
        self,
        in_channels: int,
        inner: int,
        out: int,
        stride: int = 1,
        groups: int = 1,
        reduction: int | None = None,
        downsample: nn.Module | None = None,
        first: int | None = None,
    ) -> None:
        super().__init__()
        first = first or inner
        self.conv1, self.bn1 = conv_bn(in_channels, first, 1)
        self.conv2, self.bn2 = conv_bn(first, inner, 3, stride, groups)
        self.conv3, self.bn3 = conv_bn(inner, out, 1)
        self.se = squeeze_excitation(out, reduction)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.se(self.bn3(self.conv3(x))).add_(shortcut), inplace=True)


class SENetBottleneck(Bottleneck):
    """SENet-154's: a bottleneck whose first convolution has half the 3x3 convolution's channels."""

    def __init__(self, in_channels: int, inner: int, **options: Any) -> None:
        super().__init__(in_channels, inner, **options, first=inner // 2)


Block = type[BasicBlock] | type[Bottleneck]


def stage(
    make_block: Callable[..., nn.Module], count: int, in_channels: int, out: int, first: str, shortcut_kernel: int = 1
) -> nn.Sequential:
    """``count`` blocks. ``first`` says how the first one begins: ``plain`` at stride 1; ``strided`` at stride 2;
    ``unstrided`` at stride 1 with the keys of ``strided``, so that weights trained with the stride load.

    Args:
        make_block: gives a block for ``in_channels``, ``out``, ``stride`` and ``downsample``.
        shortcut_kernel: of the strided shortcut's convolution: 1, behind an average pool, or 3, strided itself.
    """
    stride = 2 if first == "strided" else 1
    downsample = None
    if first != "plain" and shortcut_kernel > 1:
        downsample = nn.Sequential(*conv_bn(in_channels, out, shortcut_kernel, stride))
    elif first != "plain" or in_channels != out:
        pool = {
            "plain": [],
            "strided": [nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)],
            "unstrided": [nn.Identity()],
        }[first]
        downsample = nn.Sequential(*pool, *conv_bn(in_channels, out, 1))
    blocks = [make_block(in_channels, out=out, stride=stride, downsample=downsample)]
    blocks += [make_block(out, out=out) for _ in range(count - 1)]
    return nn.Sequential(*blocks)


def cifar_stem(width: int) -> nn.Sequential:
    """[N,3,H,W] -> [N,width,H,W]."""
    return nn.Sequential(*conv_bn(3, width, 3), nn.ReLU(inplace=True))


def deep_stem(width: int, out: int, pool: nn.Module) -> nn.Sequential:
    """[N,3,H,W] -> [N,out,H/4,W/4]."""
    return nn.Sequential(
        *conv_bn(3, width, 3, stride=2),
        nn.ReLU(inplace=True),
        *conv_bn(width, width, 3),
        nn.ReLU(inplace=True),
        *conv_bn(width, out, 3),
        nn.ReLU(inplace=True),
        pool,
    )


class ResNet(nn.Module):
    """One member: ``layer0`` (stem), ``layer1`` … (stages), ``fc``. [N,3,H,W] -> logits [N,num_classes].

    With ``num_classes=None`` it is SSD300's feature extractor (paper Sec. V): stem and stages 1 to 3, the third at
    stride 1, no classifier: [N,3,300,300] -> [N,C,38,38]. Its keys and shapes are those of the classifier's first
    layers.

    ``out_channels`` lists the channels after ``layer0``, ``layer1``, ….

    Convolutions start from Kaiming's normal distribution (fan out, gain of ReLU; paper Sec. IV-A), batch norms from
    weight 1 and bias 0, the classifier from PyTorch's default, unless ``zero_blocks`` or ``small_classifier`` is set.

    Args:
        reduction: of squeeze-and-excitation; None has none.
        ceil_pool: the stem's max pool rounds its output up instead of padding, as SENet's.
        shortcut_kernel: see `stage`.
        zero_blocks: the last batch norm of each block starts at weight 0, so each block starts as its shortcut.
        small_classifier: the classifier starts at a standard deviation of 1e-3 and bias 0.
    """

    def __init__(
        self,
        block: Block,
        blocks: tuple[int, ...],
        widths: Widths,
        deep: bool,
        num_classes: int | None,
        dropout: float = 0.0,
        *,
        reduction: int | None = None,
        ceil_pool: bool = False,
        shortcut_kernel: int = 1,
        zero_blocks: bool = False,
        small_classifier: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels = [(widths.stem_out or 2 * widths.stem) if deep else widths.stem]
        if deep:
            pool = nn.MaxPool2d(3, stride=2, ceil_mode=True) if ceil_pool else nn.MaxPool2d(3, stride=2, padding=1)
            self.layer0 = deep_stem(widths.stem, self.out_channels[0], pool)
        else:
            self.layer0 = cifar_stem(widths.stem)
        first = ["plain"] + ["strided"] * (len(blocks) - 1)
        if num_classes is None:
            blocks, first = blocks[:DETECTION_STAGES], ["plain", "strided", "unstrided"]
        self.stages = len(blocks)
        for k, (count, begin) in enumerate(zip(blocks, first, strict=True)):
            out = widths.out * 2**k
            make_block = partial(block, inner=widths.inner * 2**k, groups=widths.groups, reduction=reduction)
            self.add_module(
                f"layer{k + 1}", stage(make_block, count, self.out_channels[-1], out, begin, shortcut_kernel)
            )
            self.out_channels.append(out)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = Dropout(dropout)
        self.fc = None if num_classes is None else nn.Linear(self.out_channels[-1], num_classes)
        kaiming(self)
        if zero_blocks:
            for module in self.modules():
                if isinstance(module, BasicBlock | Bottleneck):
                    nn.init.zeros_((module.bn3 if isinstance(module, Bottleneck) else module.bn2).weight)
        if small_classifier and self.fc is not None and not self.fc.weight.is_meta:  # see `kaiming`
            nn.init.normal_(self.fc.weight, std=1e-3)
            nn.init.zeros_(self.fc.bias)

    def from_classifier(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of the same network as classifier that belong to the feature extractor."""
        return {name: value for name, value in weights.items() if not name.startswith(("layer4.", "fc."))}

    def forward(self, x: Tensor) -> Tensor:
        for k in range(self.stages + 1):
            x = self.get_submodule(f"layer{k}")(x)
        if self.fc is None:
            return x
        return self.fc(self.dropout(self.pool(x).flatten(1)))


@dataclass(frozen=True)
class ResNetSpec:
    """A named network: the forms it exists in, its blocks per stage, and the rule that divides its widths into S.

    The CIFAR form has the first three stages. ``options`` are further arguments of `ResNet`.
    """

    forms: tuple[str, ...]
    block: Block
    blocks: tuple[int, ...]
    divide: Callable[[int], Widths]
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, members: int, form: str, num_classes: int | None, dropout: float) -> ResNet:
        """One of ``members`` networks; ``num_classes=None`` gives SSD300's feature extractor."""
        deep = form == "imagenet"
        blocks = self.blocks if deep else self.blocks[:3]
        # Our small networks, the only ones in both forms, learn better from PyTorch's start. The released code leaves
        # the batch norms of its SE networks at 1.
        released = len(self.forms) == 1
        start = {"zero_blocks": released and "reduction" not in self.options, "small_classifier": released}
        return ResNet(self.block, blocks, self.divide(members), deep, num_classes, dropout, **start, **self.options)
