"""MobileNetV3-Large as torchvision's SSDLite has it: with a reduced tail (Howard et al. 2019, Sec. 6.3 and Table 6)."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn

from classification.backbones.regularization import draw_in_full_precision
from classification.data.statistics import IMAGENET_STATISTICS

_FIRST, _ENDS = 2, (4, 7, 13)  # blocks that halve the map: the first one, and those behind an expansion that is kept


class Rescale(nn.Module):
    """Pixels normalized by ImageNet's statistics, as -1 to 1: how torchvision's SSDLite was trained."""

    def __init__(self) -> None:
        super().__init__()
        mean, std = torch.tensor(IMAGENET_STATISTICS)[..., None, None]
        self.register_buffer("scale", std / 0.5, persistent=False)
        self.register_buffer("shift", (mean - 0.5) / 0.5, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def build(members: int, form: str, num_classes: int, dropout: float) -> nn.Module:
    """Builds a member (see `BackboneSpec.build`): widths / √S, in multiples of 8, as MobileNet's multiplier.

    ``layer0`` to ``layer4`` end at strides 2, 4, 8, 16 and 32. ``layer1`` to ``layer3`` end behind the expansion of the
    next strided block, where SSDLite takes its features. Batch norms have ε 1e-3 and momentum 0.03, as torchvision's
    SSDLite.
    """
    from torchvision.models import mobilenet_v3_large  # slow to import

    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)
    shape = {"width_mult": members**-0.5, "reduced_tail": True, "norm_layer": norm, "dropout": dropout}
    whole = draw_in_full_precision(mobilenet_v3_large(num_classes=num_classes, **shape))
    layers: list[list[nn.Module]] = [[]]
    for index, layer in enumerate(whole.features):
        if index in _ENDS:
            expansion, *rest = layer.block
            layers[-1].append(expansion)
            layers.append([nn.Sequential(*rest)])
        elif index == _FIRST:
            layers.append([layer])
        else:
            layers[-1].append(layer)
    named = {f"layer{index}": nn.Sequential(*parts) for index, parts in enumerate(layers)}
    last = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": whole.classifier}
    return nn.Sequential(OrderedDict({"rescale": Rescale(), **named, **last}))
