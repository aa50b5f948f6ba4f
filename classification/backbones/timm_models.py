"""Networks of the timm library as members, undivided: S copies of one, or a list of different ones."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classification.backbones import TIMM
from classification.backbones.dividing import divide_drop_probability
from classification.backbones.regularization import draw_in_full_precision
from classification.backbones.resnet import DETECTION_INPUT
from classification.data.statistics import IMAGENET_STATISTICS
from divdet.engine.cost import on_meta
from divdet.engine.errors import UserError

DETECTION_STRIDES, DETECTION_CELLS = (8, 16, 32), (38, 19, 10)  # of SSD300's first three levels
_PADDINGS = (0, 4, 20)  # to the next multiples of 8 and of 32


def member_names(backbone: str, members: int) -> list[str]:
    """The model of each member, of ``timm:<model>`` (S copies) or ``timm:<model>,<model>,…`` (one for each)."""
    names = _names(backbone)
    for name in names:
        _pretrained_config(name)
    if len(names) not in (1, members):
        raise UserError(f"{backbone} names {len(names)} networks where members is {members}: name one, or one for each")
    return names * members if len(names) == 1 else names


def build(
    members: int,
    form: str,
    num_classes: int | None,
    dropout: float,
    name: str,
    drop_path: float | None,
    pretrained: bool,
) -> nn.Module:
    """Builds a member (see `BackboneSpec.build`); ``pretrained`` starts from the weights that timm fetches.

    ``drop_path`` is stochastic depth's probability before it is divided by √S; None keeps the model's own.
    """
    if num_classes is None:
        return TimmFeatures(name, pretrained)
    options: dict[str, Any] = {"num_classes": num_classes, "drop_rate": dropout}
    if drop_path is None:
        return _create(name, pretrained, **options)
    options["drop_path_rate"] = divide_drop_probability(drop_path, members)
    refusal = UserError(f"timm's {name} drops no blocks, so drop_path must stay unset")
    try:
        network = _create(name, pretrained, **options)
    except TypeError as error:  # no such argument
        raise refusal from error
    # Some models take the argument and ignore it.
    if drop_path and not any(type(module).__name__ == "DropPath" for module in network.modules()):
        raise refusal
    return network


def create_classifier(name: str) -> nn.Module:
    """The model as timm publishes it: all layers, its own number of classes."""
    return _create(name, pretrained=False)


class TimmFeatures(nn.Module):
    """The features for SSD300's first three levels: [N,3,300,300] -> [N,C,38,38], [N,C,19,19], [N,C,10,10].

    They are the model's last features at strides 8, 16 and 32, each with its own number of channels; all later layers
    are removed. Their scale is the model's own: the standard deviation is 6 behind a linear bottleneck of
    EfficientNet-Lite0, and below 1 behind a residual block's ReLU.

    Images arrive normalized by ImageNet's mean and standard deviation; here they get the model's own. Cell i of a level
    of stride s stands for pixels s·i to s·i + s. Models that round down see the image padded to 304 or 320 pixels at
    the right and bottom, with the mean color, and cells that lie wholly in the padding are cut off.

    Attributes:
        level_channels: channels of the three levels.
    """

    def __init__(self, name: str, pretrained: bool = False) -> None:
        super().__init__()
        network = _create(name, pretrained)
        strides = [level["reduction"] for level in getattr(network, "feature_info", [])]
        if not set(DETECTION_STRIDES) <= set(strides) or not hasattr(network, "forward_intermediates"):
            needed = ", ".join(map(str, DETECTION_STRIDES))
            raise UserError(f"timm's {name} has no features at strides {needed}, which SSD300 needs (it has {strides})")
        self.indices = [len(strides) - 1 - strides[::-1].index(stride) for stride in DETECTION_STRIDES]
        self.level_channels = [network.feature_info[index]["num_chs"] for index in self.indices]
        whole = set(network.state_dict())
        network.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True)
        self._removed = whole - set(network.state_dict())
        self.network = network
        mean, std = torch.tensor(statistics(TIMM + name))[..., None, None]
        given_mean, given_std = torch.tensor(IMAGENET_STATISTICS)[..., None, None]
        self.register_buffer("scale", given_std / std, persistent=False)
        self.register_buffer("shift", (given_mean - mean) / std, persistent=False)
        self.padding = self._choose_padding(f"timm's {name}")

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.pad(x * self.scale + self.shift, (0, self.padding, 0, self.padding))
        features = self.network.forward_intermediates(
            x, indices=self.indices, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
        pairs = zip(features, DETECTION_CELLS, strict=True)
        return [level if level.shape[-1] == cells else level[..., :cells, :cells] for level, cells in pairs]

    def from_classifier(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Selects and renames this module's weights from those of the same model as a classifier."""
        return {f"network.{name}": value for name, value in weights.items() if name not in self._removed}

    def _choose_padding(self, name: str) -> int:
        """The least padding that gives every level its cells; UserError where none does."""
        refusal = None
        for padding in _PADDINGS:
            self.padding = padding
            try:
                found = tuple(level.shape[-1] for level in _outputs(self, name, DETECTION_INPUT))
            except UserError as error:
                refusal = refusal or error
                continue
            if found == DETECTION_CELLS:
                return padding
            refusal = refusal or UserError(f"{name} makes features of {found} cells a side, not {DETECTION_CELLS}")
        raise refusal


def output_shape(network: nn.Module, name: str, size: int) -> torch.Size:
    """Shape of the output for an image of ``size`` pixels a side; UserError, with ``name``, where it is impossible."""
    return _outputs(network, name, size).shape


def _outputs(network: nn.Module, name: str, size: int) -> Any:
    try:
        with torch.no_grad():
            return on_meta(network).eval()(torch.empty(1, 3, size, size, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(f"{name} cannot take images of {size} pixels: {_first_line(error)}") from error


def statistics(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixels in [0, 1] that ``timm:<model>,…`` expects; UserError where they differ."""
    configs = [_pretrained_config(name) for name in _names(backbone)]
    pairs = {(tuple(config.mean), tuple(config.std)) for config in configs}
    if len(pairs) > 1:
        raise UserError(f"{backbone}: these models expect images normalized differently, so they cannot share them")
    return pairs.pop()


def check_copies_differ(backbone: str, members: int, different_views: bool) -> None:
    """Raises UserError where members with the same fetched weights would see the same views, and so never differ."""
    if members > 1 and len(set(_names(backbone))) < members and not different_views:
        raise UserError(
            f"{backbone} with fetched weights and members that see the same views: the copies would hardly differ; set "
            "data.different_views to true, or name different models"
        )


def _names(backbone: str) -> list[str]:
    return backbone.removeprefix(TIMM).split(",")


def _pretrained_config(name: str) -> Any:
    """What timm knows of a model's weights."""
    timm = _import_timm()
    try:
        config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError as error:  # unknown tag
        raise UserError(f"timm has no model {name!r}: {_first_line(error)}") from error
    if config is None:
        close = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.5)
        hint = f": did you mean {', '.join(close)}?" if close else "; timm.list_models() names them"
        raise UserError(f"timm has no model {name!r}{hint}")
    return config


def _import_timm() -> Any:
    try:
        import timm  # slow to import
    except ImportError as error:
        raise UserError("backbones of timm need the library: pip install 'divdet[timm]'") from error
    return timm


def _create(name: str, pretrained: bool, **options: Any) -> nn.Module:
    create = _import_timm().create_model
    if not pretrained:
        return draw_in_full_precision(create(name, **options))
    create(name, **options)  # fails here if the options are at fault, not the weights
    try:
        return draw_in_full_precision(create(name, pretrained=True, **options))
    except Exception as error:  # types differ between timm, its hub and the network
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise UserError(f"timm's weights of {name} cannot be fetched ({reason})") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
