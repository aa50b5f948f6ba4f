"""Networks of the timm library as members, undivided: S copies of one, or a list of different ones."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classification.backbones.dividing import divide_drop_probability
from classification.backbones.regularization import draw_in_full_precision
from classification.backbones.resnet import DETECTION_INPUT
from classification.data.datasets import IMAGENET_STATISTICS
from divdet.engine.cost import on_meta
from divdet.engine.errors import UserError

PREFIX = "timm:"
_STRIDE, _FEATURES = 8, 38  # of SSD300


def timm_specs(backbone: str, members: int) -> list[TimmSpec]:
    """The members that ``timm:<model>`` (S copies) or ``timm:<model>,<model>,…`` (S different ones) names.

    Raises:
        UserError: where timm is not installed, knows no such model, or the list does not have S names.
    """
    names = backbone.removeprefix(PREFIX).split(",")
    for name in names:
        _settings(name)
    if len(names) not in (1, members):
        raise UserError(f"{backbone} names {len(names)} networks where members is {members}: name one, or one for each")
    return [TimmSpec(name) for name in (names * members if len(names) == 1 else names)]


@dataclass(frozen=True)
class TimmSpec:
    """One of timm's models. ``drop_path`` is that of S networks before it is divided by √S; None takes the model's own.
    ``pretrained`` starts from the weights that timm fetches.
    """

    name: str
    drop_path: float | None = None
    pretrained: bool = False
    forms: tuple[str, ...] = ("cifar", "imagenet")

    def build(self, members: int, form: str, num_classes: int | None, dropout: float) -> nn.Module:
        """One of S members, whatever the form; ``num_classes=None`` gives SSD300's feature extractor."""
        if num_classes is None:
            return TimmFeatures(self.name, self.pretrained)
        options: dict[str, Any] = {"num_classes": num_classes, "drop_rate": dropout}
        if self.drop_path is None:
            return _create(self.name, self.pretrained, **options)
        options["drop_path_rate"] = divide_drop_probability(self.drop_path, members)
        refusal = UserError(f"timm's {self.name} drops no blocks, so drop_path must stay unset")
        try:
            network = _create(self.name, self.pretrained, **options)
        except TypeError as error:  # no such argument
            raise refusal from error
        # Some models take the argument and ignore it.
        if self.drop_path and not any(type(module).__name__ == "DropPath" for module in network.modules()):
            raise refusal
        return network


class TimmFeatures(nn.Module):
    """SSD300's feature extractor: [N,3,300,300] -> [N,C,38,38].

    Where timm can build the model at an output stride of 8, the features are those of the stage that is at stride 16
    in its usual form, as of the built-in backbones (stage 3 at stride 1); elsewhere those of the last stage at stride
    8. What comes behind is removed. Images that arrive normalised by ImageNet's mean and standard deviation are
    brought to the model's own. Models that round down to 37 × 37 cells see the image on 304 pixels, the added ones in
    the mean colour at the right and the bottom: cell i stands for pixels 8·i to 8·i + 8.

    Raises:
        UserError: for a model without such features.
    """

    def __init__(self, name: str, pretrained: bool = False) -> None:
        super().__init__()
        try:
            network, place = _create(name, pretrained, output_stride=_STRIDE), 1
        except (TypeError, AssertionError, NotImplementedError, ValueError):  # a model of fixed strides
            network, place = _create(name, pretrained), -1
        levels = [level["reduction"] for level in getattr(network, "feature_info", [])]
        found = [index for index, reduction in enumerate(levels) if reduction == _STRIDE]
        if not found or not hasattr(network, "forward_intermediates"):
            raise UserError(f"timm's {name} has no features at stride {_STRIDE}, which SSD300 needs (it has {levels})")
        self.index = found[place if len(found) > 1 else 0]
        self.out_channels = [network.feature_info[self.index]["num_chs"]]
        whole = set(network.state_dict())
        network.prune_intermediate_layers([self.index], prune_norm=True, prune_head=True)
        self._removed = whole - set(network.state_dict())
        self.network = network
        own, given = statistics(f"{PREFIX}{name}"), IMAGENET_STATISTICS
        (mean, std), (given_mean, given_std) = (
            [torch.tensor(values)[:, None, None] for values in pair] for pair in (own, given)
        )
        self.register_buffer("scale", given_std / std, persistent=False)
        self.register_buffer("shift", (given_mean - mean) / std, persistent=False)
        self.padding = 0
        size = self._feature_size()
        if size == _FEATURES - 1:
            self.padding = _STRIDE * _FEATURES - DETECTION_INPUT
            size = self._feature_size()
        if size != _FEATURES:
            raise UserError(
                f"timm's {name} makes {size} × {size} features of {DETECTION_INPUT} pixels; SSD300 needs 38 × 38"
            )

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x * self.scale + self.shift, (0, self.padding, 0, self.padding))
        (features,) = self.network.forward_intermediates(
            x, indices=[self.index], stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
        return features

    def from_classifier(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of the same model as classifier that belong here, by the names here."""
        return {f"network.{name}": value for name, value in weights.items() if name not in self._removed}

    def _feature_size(self) -> int:
        return output_shape(self, f"timm's {self.network.pretrained_cfg['architecture']}", DETECTION_INPUT)[-1]


def output_shape(network: nn.Module, name: str, size: int) -> torch.Size:
    """Shape of the network's output for an image of ``size`` pixels a side, found without computing it.

    Raises:
        UserError: where it does not take such images; ``name`` says whose fault it is.
    """
    try:
        with torch.no_grad():
            return on_meta(network).eval()(torch.empty(1, 3, size, size, device="meta")).shape
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{name} cannot take images of {size} pixels: {reason}") from error


def statistics(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the pixels in 0…1 that ``timm:<model>,…`` is made for.

    Raises:
        UserError: where the models of a list differ in them.
    """
    found = [_settings(name) for name in backbone.removeprefix(PREFIX).split(",")]
    pairs = {(tuple(settings.mean), tuple(settings.std)) for settings in found}
    if len(pairs) > 1:
        raise UserError(f"{backbone}: these models expect images normalised differently, so they cannot share them")
    return pairs.pop()


def check_copies_differ(backbone: str, members: int, different_views: bool) -> None:
    """Raises UserError where members would start from the same fetched weights, see the same views, and so stay one
    network.
    """
    names = backbone.removeprefix(PREFIX).split(",")
    if members > 1 and len(set(names)) < members and not different_views:
        raise UserError(
            f"{backbone} with fetched weights and members that see the same views: the copies would never differ; set "
            "data.different_views to true, or name different models"
        )


def _settings(name: str) -> Any:
    """What timm knows of a model's weights."""
    timm = _library()
    try:
        settings = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError as error:  # a tag that it does not know
        raise UserError(f"timm has no model {name!r}: {str(error).strip().partition(chr(10))[0]}") from error
    if settings is None:
        close = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.5)
        hint = f": did you mean {', '.join(close)}?" if close else "; timm.list_models() names them"
        raise UserError(f"timm has no model {name!r}{hint}")
    return settings


def _library() -> Any:
    try:
        import timm  # slow to import
    except ImportError as error:
        raise UserError("backbones of timm need the library: pip install 'divdet[timm]'") from error
    return timm


def _create(name: str, pretrained: bool, **options: Any) -> nn.Module:
    create = _library().create_model
    if not pretrained:
        return draw_in_full_precision(create(name, **options))
    create(name, **options)  # a model that cannot be built so is no matter of its weights
    try:
        return draw_in_full_precision(create(name, pretrained=True, **options))
    except Exception as error:  # of timm, its hub, or the network: their types are not promised
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"timm's weights of {name} cannot be fetched ({type(error).__name__}: {reason})") from error
