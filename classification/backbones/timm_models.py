"""Networks of the timm library as members: S copies of one, or a list of different ones.

They are undivided, unless a name says otherwise: ``resnet50/2`` is ``resnet50`` with its width divided by √2.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classification.backbones import TIMM
from classification.backbones.dividing import divide_drop_probability
from classification.backbones.features import check_strides
from classification.backbones.regularization import draw_in_full_precision
from classification.backbones.slicing import narrow
from classification.data.statistics import IMAGENET_STATISTICS
from divdet.engine.cost import on_meta
from divdet.engine.errors import UserError


def member_names(backbone: str, members: int) -> list[str]:
    """The model of each member, of ``timm:<model>`` (S copies) or ``timm:<model>,<model>,…`` (one for each)."""
    names = _names(backbone)
    for name in names:
        _pretrained_config(name)
        _divisor(name)
    if len(names) not in (1, members):
        raise UserError(f"{backbone} names {len(names)} networks where members is {members}: name one, or one for each")
    return names * members if len(names) == 1 else names


def build(
    members: int,
    form: str,
    num_classes: int,
    dropout: float,
    name: str,
    drop_path: float | None,
    pretrained: bool,
) -> nn.Module:
    """Builds a member (see `BackboneSpec.build`); ``pretrained`` starts from the weights that timm fetches.

    ``drop_path`` is stochastic depth's probability before it is divided by √S; None keeps the model's own.
    """
    options: dict[str, Any] = {"num_classes": num_classes, "drop_rate": dropout}
    if drop_path is None:
        return create_classifier(name, pretrained, **options)
    options["drop_path_rate"] = divide_drop_probability(drop_path, members)
    refusal = UserError(f"timm's {name} drops no blocks, so drop_path must stay unset")
    try:
        network = create_classifier(name, pretrained, **options)
    except TypeError as error:  # no such argument
        raise refusal from error
    # Some models take the argument and ignore it.
    if drop_path and not any(type(module).__name__ == "DropPath" for module in network.modules()):
        raise refusal
    return network


def create_classifier(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    """The model as timm publishes it, all layers and classes, unless ``options`` say otherwise; ``/S`` narrows it."""
    network = _take_every_second_pixel(_create_undivided(undivided(name), pretrained, **options))
    if (divisor := _divisor(name)) == 1:
        return network
    if pretrained:
        raise UserError(f"timm has no weights of {name}: start from {TIMM}{undivided(name)} by model.divide_from")
    return narrow(network, divisor, network.pretrained_cfg["input_size"][-1], f"{TIMM}{undivided(name)}")


def _take_every_second_pixel(network: nn.Module) -> nn.Module:
    """Makes 1×1 convolutions of stride 2 on the image (RepVGG, MobileOne, FastViT) unstrided ones on fewer pixels.

    PyTorch 2.14 writes past their memory on a CPU: in channels_last, where the weight's gradient is computed.
    """
    for module in network.modules():
        shape = isinstance(module, nn.Conv2d) and (module.in_channels, *module.kernel_size, *module.stride)
        if shape == (3, 1, 1, 2, 2):
            module.stride = (1, 1)
            module.register_forward_pre_hook(_every_second_pixel)
    return network


def _every_second_pixel(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:  # no lambda, so that pickle can name it
    return (given[0][..., ::2, ::2],)


class TimmFeatures(nn.Module):
    """The model's last features at each of some strides s, finest first: [N,3,H,W] -> maps [N,C,⌈H/s⌉,⌈W/s⌉].

    All later layers are removed. The scale of the features is the model's own: the standard deviation is 6 behind a
    linear bottleneck of EfficientNet-Lite0, and below 1 behind a residual block's ReLU.

    Images arrive normalized by ImageNet's mean and standard deviation; here they get the model's own. Cell i of a level
    of stride s stands for pixels s·i to s·i + s. Models that round down see the image padded to the next multiple of 8
    or of the coarsest stride at the right and bottom, with the mean color, and cells that lie wholly in the padding are
    cut off.

    Args:
        size: side in pixels of square images that the model must take. Whether it takes others shows when they come.

    Attributes:
        level_channels: channels of each level.
    """

    def __init__(self, name: str, pretrained: bool, strides: Sequence[int], size: int) -> None:
        super().__init__()
        network = create_classifier(name, pretrained)
        self.name, self.strides = f"timm's {name}", tuple(strides)
        found = [level["reduction"] for level in getattr(network, "feature_info", [])]
        if not hasattr(network, "forward_intermediates"):
            found = []
        check_strides(self.name, strides, found)
        self.indices = [len(found) - 1 - found[::-1].index(stride) for stride in strides]
        self.level_channels: list[int] = []
        whole = set(network.state_dict())
        network.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True)
        self._removed = whole - set(network.state_dict())
        self.network = network
        mean, std = torch.tensor(statistics(TIMM + name))[..., None, None]
        given_mean, given_std = torch.tensor(IMAGENET_STATISTICS)[..., None, None]
        self.register_buffer("scale", given_std / std, persistent=False)
        self.register_buffer("shift", (given_mean - mean) / std, persistent=False)
        self._paddings: dict[tuple[int, int], tuple[int, int]] = {}
        self._padding(size, size)

    def forward(self, x: Tensor) -> list[Tensor]:
        height, width = (int(side) for side in x.shape[-2:])  # tensors where OpenVINO traces
        cells = self._cells(height, width)
        levels = self._run(x, self._padding(height, width))
        pairs = zip(levels, cells, strict=True)
        return [level if level.shape[-2:] == (h, w) else level[..., :h, :w] for level, (h, w) in pairs]

    def from_classifier(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Selects and renames this module's weights from those of the same model as a classifier."""
        return {f"network.{name}": value for name, value in weights.items() if name not in self._removed}

    def _cells(self, height: int, width: int) -> list[tuple[int, int]]:
        return [(-(-height // stride), -(-width // stride)) for stride in self.strides]

    def _run(self, x: Tensor, padding: tuple[int, int]) -> list[Tensor]:
        right, bottom = padding
        return self.network.forward_intermediates(
            F.pad(x * self.scale + self.shift, (0, right, 0, bottom)),
            indices=self.indices,
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )

    def _padding(self, height: int, width: int) -> tuple[int, int]:
        """The least padding (right, bottom) that gives every level its cells; UserError where none does."""
        if (height, width) in self._paddings:
            return self._paddings[height, width]
        copy, refusal = on_meta(self).eval(), None
        for multiple in sorted({1, 8, *self.strides}):
            padding = (-width % multiple, -height % multiple)
            try:
                levels = _on_meta(lambda x, p=padding: copy._run(x, p), self.name, height, width)
            except UserError:
                side, given = self.network.pretrained_cfg["input_size"][-1], _pixels(height, width)
                why = f"{self.name} cannot take images of {given} pixels: it is made for {side}; choose another model"
                refusal = refusal or UserError(why)
                continue
            found = [tuple(level.shape[-2:]) for level in levels]
            if found == self._cells(height + padding[1], width + padding[0]):
                self.level_channels = [level.shape[1] for level in levels]
                self._paddings[height, width] = padding
                return padding
            maps, wanted = (", ".join(f"{h}x{w}" for h, w in sides) for sides in (found, self._cells(height, width)))
            given = _pixels(height, width)
            refusal = refusal or UserError(f"{self.name} makes maps of {maps} cells of {given} pixels, not {wanted}")
        raise refusal


def output_shape(network: nn.Module, name: str, size: int) -> torch.Size:
    """Shape of the output for an image of ``size`` pixels a side; UserError, with ``name``, where it is impossible."""
    return _on_meta(on_meta(network).eval(), name, size, size).shape


def _on_meta(network: Callable[[Tensor], Any], name: str, height: int, width: int) -> Any:
    """What ``network``, which is on the meta device, makes of an image."""
    try:
        with torch.no_grad():
            return network(torch.empty(1, 3, height, width, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{name} cannot take images of {_pixels(height, width)} pixels: {_first_line(error)}"
        ) from error


def _pixels(height: int, width: int) -> str:
    return f"{height}" if height == width else f"{height}x{width}"


def statistics(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixels in [0, 1] that ``timm:<model>,…`` expects; UserError where they differ."""
    configs = [_pretrained_config(name) for name in _names(backbone)]
    pairs = {(tuple(config.mean), tuple(config.std)) for config in configs}
    if len(pairs) > 1:
        raise UserError(f"{backbone}: these models expect images normalized differently, so they cannot share them")
    return pairs.pop()


def check_copies_differ(backbone: str, members: int, different_views: bool) -> None:
    """Raises UserError where members with the same fetched weights would see the same views, and so never differ."""
    if not backbone.startswith(TIMM):  # there are none; what fetches them says so
        return
    if members > 1 and len(set(_names(backbone))) < members and not different_views:
        raise UserError(
            f"{backbone} with fetched weights and members that see the same views: the copies would hardly differ; set "
            "data.different_views to true, or name different models"
        )


def note_other_division(backbone: str, members: int) -> None:
    """Prints a note where ``timm:<model>/S`` divides the width for another number of members."""
    for divisor in sorted({_divisor(name) for name in _names(backbone)} - {1, members}):
        print(
            f"note: {backbone} is one of {divisor} members that cost as much as the undivided, and there are {members}"
        )


def _names(backbone: str) -> list[str]:
    return [name.strip() for name in backbone.removeprefix(TIMM).split(",")]


def undivided(name: str) -> str:
    """``resnet50`` of ``resnet50/2``."""
    return name.partition("/")[0]


def _divisor(name: str) -> int:
    """2 of ``resnet50/2``; 1 of ``resnet50``. UserError for anything else behind the stroke."""
    _, stroke, divisor = name.partition("/")
    if stroke and not (divisor.isascii() and divisor.isdigit() and int(divisor) > 1):
        raise UserError(f"{TIMM}{name}: behind / give a number from 2, such as {TIMM}{undivided(name)}/2")
    return int(divisor or 1)


def _pretrained_config(name: str) -> Any:
    """What timm knows of a model's weights."""
    timm, name = _import_timm(), undivided(name)
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


def _create_undivided(name: str, pretrained: bool, **options: Any) -> nn.Module:
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
