"""EfficientNet B0 to B7 (Tan and Le 2019) of torchvision's blocks, for small images (CIFAR) and large (ImageNet)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.ops import Conv2dNormActivation

from classification.backbones.dividing import divide_drop_probability, divide_to_multiple
from classification.backbones.regularization import draw_in_full_precision

# Channels of the stem, the seven stages and the last convolution (paper, appendix c; stage 1 at S=4 as in its table).
BASELINE = {
    1: (32, 16, 24, 40, 80, 112, 192, 320, 1280),
    2: (24, 12, 16, 24, 56, 80, 136, 224, 920),
    4: (16, 12, 16, 20, 40, 56, 96, 160, 640),
}
_EXPANSION = (1, 6, 6, 6, 6, 6, 6)
_KERNEL = (3, 3, 5, 3, 5, 5, 3)
_STRIDE = (1, 2, 2, 2, 1, 2, 1)
# On CIFAR the stem and stages 3 and 6 keep the size (the paper counts the stem as stage 1: "stage 4&7").
_CIFAR_STRIDE = (1, 2, 1, 2, 1, 1, 1)
_LAYERS = (1, 2, 2, 3, 3, 4, 1)


def round_channels(channels: float, divisor: int) -> int:
    """The nearest multiple of ``divisor`` that is not below 0.9 · channels (Tan and Le's rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class _Stage(MBConvConfig):
    """torchvision's configuration of a stage, without its rounding of channels to multiples of 8."""

    @staticmethod
    def adjust_channels(channels: int, width_mult: float, min_value: int | None = None) -> int:
        return round(channels * width_mult)


class SameConv2d(nn.Conv2d):
    """A strided convolution padded as TensorFlow's "same": the odd pixel goes to the right and the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        pad = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            pad += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pad), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


@dataclass(frozen=True)
class EfficientNetSpec:
    """``width`` and ``depth`` coefficients, and ``drop_path`` of the last block, of the undivided network."""

    width: float
    depth: float
    drop_path: float = 0.2
    forms: tuple[str, ...] = ("cifar", "imagenet")

    def channels(self, members: int) -> list[int]:
        """Channels of stem, seven stages and last convolution of one of S members: multiples of 8, of 4 where S > 1."""
        baseline = BASELINE.get(members) or [divide_to_multiple(c, members, 4) for c in BASELINE[1]]
        return [round_channels(c * self.width, 8 if members == 1 else 4) for c in baseline]

    def build(self, members: int, form: str, num_classes: int, dropout: float) -> EfficientNet:
        """One of S members. Its batch norms have ε 1e-3 and momentum 0.01; stochastic depth ends at drop_path/√S."""
        stem, *stages, last = self.channels(members)
        strides = _STRIDE if form == "imagenet" else _CIFAR_STRIDE
        layers = [math.ceil(count * self.depth) for count in _LAYERS]
        inputs = [stem, *stages[:-1]]
        settings = [_Stage(*row) for row in zip(_EXPANSION, _KERNEL, strides, inputs, stages, layers, strict=True)]
        network = EfficientNet(
            settings,
            dropout,
            divide_drop_probability(self.drop_path, members),
            num_classes,
            partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01),
            last,
        )
        draw_in_full_precision(network)
        if form == "cifar":
            network.features[0][0].stride = (1, 1)
            return network
        for module in network.modules():
            if isinstance(module, Conv2dNormActivation) and module[0].stride != (1, 1):
                conv = module[0]
                module[0] = SameConv2d(
                    conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, groups=conv.groups, bias=False
                )
                module[0].weight = conv.weight
        return network
