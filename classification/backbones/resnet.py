"""ResNet, WRN, ResNeXt and SENet, for small images (CIFAR form) and large ones (ImageNet form).

The ImageNet form follows He et al., "Bag of tricks" (paper ref. [51]): the stem has three 3x3 convolutions, and a
strided shortcut pools before its 1x1 convolution. The CIFAR form shares the latter. SE networks have
squeeze-and-excitation (Hu et al. 2018) before a block's shortcut is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from classification.backbones.dividing import Widths
from classification.backbones.initialization import kaiming
from classification.backbones.regularization import Dropout

DETECTION_STAGES = 3
DETECTION_INPUT = 300  # side of SSD300's images in pixels


def conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias, padded to keep the size (over ``stride``, rounded up), and its batch norm."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


def squeeze_excitation(channels: int, reduction: int) -> nn.Module:
    """Squeeze-and-excitation with channels / ``reduction`` hidden units; the identity where ``reduction`` is 0."""
    if not reduction:
        return nn.Identity()
    from torchvision.ops import SqueezeExcitation  # slow to import

    return SqueezeExcitation(channels, channels // reduction)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, the first strided, beside a shortcut: [N,C,H,W] -> [N,out,H/stride,W/stride]."""

    def __init__(
        self, in_channels: int, inner: int, out: int, stride: int, groups: int, reduction: int, downsample: nn.Module
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(in_channels, inner, 3, stride, groups)
        self.conv2, self.bn2 = conv_bn(inner, out, 3, groups=groups)
        self.se = squeeze_excitation(out, reduction)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.se(self.bn2(self.conv2(x))).add_(shortcut), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided, grouped) and 1x1 beside a shortcut: [N,C,H,W] -> [N,out,H/stride,W/stride]."""

    first_divisor = 1

    def __init__(
        self, in_channels: int, inner: int, out: int, stride: int, groups: int, reduction: int, downsample: nn.Module
    ) -> None:
        super().__init__()
        first = inner // self.first_divisor
        self.conv1, self.bn1 = conv_bn(in_channels, first, 1)
        self.conv2, self.bn2 = conv_bn(first, inner, 3, stride, groups)
        self.conv3, self.bn3 = conv_bn(inner, out, 1)
        self.se = squeeze_excitation(out, reduction)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.se(self.bn3(self.conv3(x))).add_(shortcut), inplace=True)


class SENetBottleneck(Bottleneck):
    """Bottleneck of SENet-154, whose first convolution has half as many channels as the 3x3 convolution."""

    first_divisor = 2


Block = type[BasicBlock] | type[Bottleneck]


def stem(widths: Widths, imagenet: bool, ceil_pool: bool) -> nn.Sequential:
    """[N,3,H,W] -> [N,C,H,W] in the CIFAR form, [N,C,H/4,W/4] in the ImageNet form."""
    if not imagenet:
        return nn.Sequential(*conv_bn(3, widths.stem, 3), nn.ReLU(inplace=True))
    layers, channels = [], 3
    for out, stride in ((widths.stem, 2), (widths.stem, 1), (widths.stem_out or 2 * widths.stem, 1)):
        layers += [*conv_bn(channels, out, 3, stride), nn.ReLU(inplace=True)]
        channels = out
    return nn.Sequential(*layers, nn.MaxPool2d(3, 2, padding=0 if ceil_pool else 1, ceil_mode=ceil_pool))


class ResNet(nn.Module):
    """One member: ``layer0`` (stem), ``layer1`` … (stages), ``fc``. [N,3,H,W] -> logits [N,num_classes].

    With ``num_classes=None`` it is SSD300's feature extractor (paper, Sec. V): stages 1 to 3, of which the third has
    stride 1, and no classifier. [N,3,300,300] -> [N,C,38,38]. Its keys and shapes are those of the classifier.

    Convolutions start from Kaiming's normal distribution, all else as PyTorch's layers do.

    Args:
        blocks: number of blocks in each stage.
        imagenet: ImageNet form rather than CIFAR form.
        dropout: probability before the classifier.
        reduction: of squeeze-and-excitation; 0 for none.
        ceil_pool: the stem's max pool rounds its output up, as SENet's, instead of padding its input.
        shortcut_kernel: of a strided shortcut's convolution: 1, behind an average pool, or 3, strided itself.
        released_start: start as the released code does. The last batch norm of a block without squeeze-and-excitation
            starts at 0, so that the block is its shortcut; the classifier at a standard deviation of 1e-3 and bias 0.

    Attributes:
        out_channels: channels after ``layer0``, ``layer1``, ….
    """

    def __init__(
        self,
        block: Block,
        blocks: tuple[int, ...],
        widths: Widths,
        imagenet: bool,
        num_classes: int | None,
        dropout: float = 0.0,
        *,
        reduction: int = 0,
        ceil_pool: bool = False,
        shortcut_kernel: int = 1,
        released_start: bool = True,
    ) -> None:
        super().__init__()
        self.layer0 = stem(widths, imagenet, ceil_pool)
        self.out_channels = [[m.out_channels for m in self.layer0 if isinstance(m, nn.Conv2d)][-1]]
        for k, count in enumerate(blocks if num_classes is not None else blocks[:DETECTION_STAGES]):
            inner, out = widths.inner * 2**k, widths.out * 2**k
            make_block = partial(block, inner=inner, out=out, groups=widths.groups, reduction=reduction)
            unstrided = num_classes is None and k == DETECTION_STAGES - 1
            stride = 1 if k == 0 or unstrided else 2
            downsample = shortcut(self.out_channels[-1], out, k == 0, stride, shortcut_kernel)
            layers = [make_block(self.out_channels[-1], stride=stride, downsample=downsample)]
            layers += [make_block(out, stride=1, downsample=nn.Identity()) for _ in range(count - 1)]
            self.add_module(f"layer{k + 1}", nn.Sequential(*layers))
            self.out_channels.append(out)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = Dropout(dropout)
        self.fc = None if num_classes is None else nn.Linear(self.out_channels[-1], num_classes)
        kaiming(self)
        if released_start and not reduction:
            for module in self.modules():
                if isinstance(module, BasicBlock | Bottleneck):
                    nn.init.zeros_((module.bn3 if isinstance(module, Bottleneck) else module.bn2).weight)
        if released_start and self.fc is not None and not self.fc.weight.is_meta:  # see `kaiming`
            nn.init.normal_(self.fc.weight, std=1e-3)
            nn.init.zeros_(self.fc.bias)

    def from_classifier(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Selects the feature extractor's weights from those of the same network as a classifier."""
        return {name: value for name, value in weights.items() if not name.startswith(("layer4.", "fc."))}

    def forward(self, x: Tensor) -> Tensor:
        for k in range(len(self.out_channels)):
            x = self.get_submodule(f"layer{k}")(x)
        if self.fc is None:
            return x
        return self.fc(self.dropout(self.pool(x).flatten(1)))


def shortcut(in_channels: int, out: int, first_stage: bool, stride: int, kernel: int) -> nn.Module:
    """The shortcut of a stage's first block. A stage that lost its stride keeps the keys of the strided one."""
    if first_stage:
        return nn.Identity() if in_channels == out else nn.Sequential(*conv_bn(in_channels, out, 1))
    if kernel > 1:
        return nn.Sequential(*conv_bn(in_channels, out, kernel, stride))
    pool = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False) if stride == 2 else nn.Identity()
    return nn.Sequential(pool, *conv_bn(in_channels, out, 1))


def build(
    members: int,
    form: str,
    num_classes: int | None,
    dropout: float,
    block: Block,
    blocks: tuple[int, ...],
    divide: Callable[[int], Widths],
    **options: Any,
) -> ResNet:
    """Builds a member (see `BackboneSpec.build`) of ``divide(members)`` channels; ``options`` as of `ResNet`."""
    imagenet = form == "imagenet"
    return ResNet(block, blocks if imagenet else blocks[:3], divide(members), imagenet, num_classes, dropout, **options)
