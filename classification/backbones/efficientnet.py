"""EfficientNet B0 to B7 (Tan and Le 2019) of torchvision's blocks, for small images (CIFAR) and large (ImageNet)."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from classification.backbones.dividing import divide_drop_probability, divide_to_multiple
from classification.backbones.regularization import draw_in_full_precision

# Channels of the stem, the seven stages and the last convolution, by S (paper, appendix c; stage 1 at S=4 as in its
# table).
BASELINE = {
    1: (32, 16, 24, 40, 80, 112, 192, 320, 1280),
    2: (24, 12, 16, 24, 56, 80, 136, 224, 920),
    4: (16, 12, 16, 20, 40, 56, 96, 160, 640),
}
# Of the seven stages
EXPANSION = (1, 6, 6, 6, 6, 6, 6)
KERNEL = (3, 3, 5, 3, 5, 5, 3)
STRIDE = {
    "imagenet": (1, 2, 2, 2, 1, 2, 1),
    "cifar": (1, 2, 1, 2, 1, 1, 1),  # the stem has stride 1 too; the paper counts it as a stage ("stage 4&7")
}
LAYERS = (1, 2, 2, 3, 3, 4, 1)


def round_channels(channels: float, divisor: int) -> int:
    """Rounds to the nearest multiple of ``divisor`` that is not below 0.9 · channels (Tan and Le's rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class SameConv2d(nn.Conv2d):
    """A strided convolution with TensorFlow's "same" padding: the odd pixel goes to the right and the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        pad = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            pad += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pad), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def divide_channels(width: float, members: int) -> list[int]:
    """A member's channels of stem, seven stages and last convolution: multiples of 8, or of 4 where S > 1."""
    baseline = BASELINE.get(members) or [divide_to_multiple(c, members, 4) for c in BASELINE[1]]
    return [round_channels(c * width, 8 if members == 1 else 4) for c in baseline]


def last_at_strides(form: str) -> dict[int, int]:
    """By stride, the index of the last of the stages 1 to 7 that has it."""
    stride, found = 2 if form == "imagenet" else 1, {}
    for index, factor in enumerate(STRIDE[form], start=1):
        stride *= factor
        found[stride] = index
    return found


def build(
    members: int, form: str, num_classes: int, dropout: float, width: float, depth: float, drop_path: float
) -> nn.Module:
    """Builds a member (see `BackboneSpec.build`) by the undivided network's coefficients of width and depth.

    ``drop_path`` is stochastic depth's probability in its last block. Batch norms have ε 1e-3 and momentum 0.01.
    """
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig  # slow to import

    class Stage(MBConvConfig):
        @staticmethod
        def adjust_channels(channels: int, width_mult: float, min_value: int | None = None) -> int:
            return round(channels * width_mult)  # torchvision's would round to a multiple of 8

    stem, *outputs, last = divide_channels(width, members)
    inputs = [stem, *outputs[:-1]]
    layers = [math.ceil(count * depth) for count in LAYERS]
    stages = [Stage(*row) for row in zip(EXPANSION, KERNEL, STRIDE[form], inputs, outputs, layers, strict=True)]
    drop_path = divide_drop_probability(drop_path, members)
    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
    network = draw_in_full_precision(EfficientNet(stages, dropout, drop_path, num_classes, norm, last))
    if form == "cifar":
        network.features[0][0].stride = (1, 1)
        return network
    for module in network.modules():
        for name, conv in module.named_children():
            if isinstance(conv, nn.Conv2d) and conv.stride != (1, 1):
                shape = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride)
                same = SameConv2d(*shape, groups=conv.groups, bias=False)
                same.weight = conv.weight
                setattr(module, name, same)
    return network
