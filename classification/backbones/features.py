"""Classifiers as backbones of detectors: a feature map at each of several strides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from divdet.engine.errors import UserError

STRIDES = (8, 16, 32)  # which every family has
SMALL_IMAGES_FINEST = 8  # stride of the first stage of networks that have no form for large images


class LevelFeatures(nn.Module):
    """A classifier's layers up to its last level: [N,3,H,W] -> a map [N,C,⌈H/s⌉,⌈W/s⌉] at each stride s.

    Weights have the names and shapes that they have in the classifier.

    Args:
        network: the classifier, whose layers are taken over.
        row: names of its layers, in the order in which they run.
        levels: names of those that end a level, in the same order.

    Attributes:
        level_channels: channels of each map.
    """

    def __init__(self, network: nn.Module, row: Sequence[str], levels: Sequence[str]) -> None:
        super().__init__()
        ends = [row.index(name) + 1 for name in levels]
        self.level_channels = [_input_channels([network.get_submodule(name) for name in row[end:]]) for end in ends]
        for name in row[: ends[-1]]:
            holder, _, own_name = name.rpartition(".")
            if holder and not hasattr(self, holder):
                self.add_module(holder, nn.Sequential())
            self.get_submodule(holder).add_module(own_name, network.get_submodule(name))
        self._layers = [(name, name in levels) for name in row[: ends[-1]]]
        self._removed = network.state_dict().keys() - self.state_dict().keys()

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for name, ends_level in self._layers:
            x = self.get_submodule(name)(x)
            if ends_level:
                maps.append(x)
        return maps

    def from_classifier(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Selects this module's weights from those of the same network as a classifier."""
        return {name: value for name, value in weights.items() if name not in self._removed}


class RoundingUpMaxPool(nn.MaxPool2d):
    """A 3x3 max pool of stride 2 behind a ReLU, with a cell for the last row and column of odd sides, too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)))


def level_features(network: nn.Module, name: str, form: str, strides: Sequence[int]) -> LevelFeatures:
    """Makes a backbone of the paper's classifier ``name`` in ``form``, whose layers are taken over and changed.

    Pools round up, as strided convolutions do. The CIFAR form gets a coarser stem without further weights.

    Raises:
        UserError: for strides that the network does not have.
    """
    if hasattr(network, "features"):  # EfficientNet, without the convolution before its classifier
        from classification.backbones.efficientnet import last_at_strides

        row = [f"features.{index}" for index, _ in enumerate(network.features)]
        levels = {stride: f"features.{index}" for stride, index in last_at_strides(form).items()}
    else:
        names = [child for child, _ in network.named_children()]
        trunk = names[: names.index("pool")]
        stages = [child for child in trunk if re.fullmatch(r"(layer|block)[1-9]", child)]
        finest = 4 if form == "imagenet" else SMALL_IMAGES_FINEST
        # What follows the last stage (batch norm, ReLU) completes it.
        levels = {finest * 2**k: stage for k, stage in enumerate([*stages[:-1], trunk[-1]])}
        row = [*trunk, "fc"]
        if form == "cifar":
            row = _coarsen(network, row, stages[0])
    check_strides(name, strides, levels)
    _round_up(network)
    return LevelFeatures(network, row, [levels[stride] for stride in strides])


def check_strides(name: str, strides: Sequence[int], available: Iterable[int]) -> None:
    """Raises UserError unless ``strides`` are some of those that network ``name`` has, finest first."""
    has = sorted(set(available))
    if not strides or list(strides) != [stride for stride in has if stride in strides]:
        wanted = ", ".join(map(str, strides)) or "none"
        raise UserError(f"{name} has no features at strides {wanted}; it has {', '.join(map(str, has)) or 'none'}")


def _coarsen(network: nn.Module, row: list[str], first_stage: str) -> list[str]:
    """Makes the stem 8 times as coarse, by a stride of its convolution and two max pools; returns the new row."""
    next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d)).stride = (2, 2)
    network.add_module("stem_pool", nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2, 1)))
    start = row.index(first_stage)
    return [*row[:start], "stem_pool", *row[start:]]


def _round_up(network: nn.Module) -> None:
    """Makes pools of stride 2 give ⌈side/2⌉ cells, of the same values where they did."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.AvgPool2d):
                child.ceil_mode = True  # the mean of those pixels that exist
            elif isinstance(child, nn.MaxPool2d) and child.ceil_mode:
                setattr(module, name, RoundingUpMaxPool(child.kernel_size, child.stride, ceil_mode=True))


def _input_channels(layers: Sequence[nn.Module]) -> int:
    """Channels that the first of these layers with weights takes."""
    for layer in (module for part in layers for module in part.modules()):
        for attribute in ("num_features", "in_channels", "in_features"):
            if hasattr(layer, attribute):
                return getattr(layer, attribute)
    raise ValueError("no layer with weights")
