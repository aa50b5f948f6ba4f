"""Layers that training leaves as they are."""

import re
from collections.abc import Iterable, Iterator
from itertools import takewhile

from torch import nn
from torch.nn import Parameter

from divdet.engine.errors import UserError

Part = nn.Module | Parameter
Stage = dict[str, Part]  # its parts by name, in the network's order
_STAGE = re.compile(r"(layer|block|features\.)\d+")  # of the built-in backbones


def stages(network: nn.Module) -> list[Stage]:
    """The stages of a backbone from its input on, the first one the stem; every parameter is in one of them.

    Stages of the built-in backbones have numbers in their names. Those of timm's follow from ``feature_info``, which
    names the modules whose outputs are its features:

    - Where these stand in a sequence of stages (``stages`` of ConvNeXt, ``blocks`` of EfficientNet), each part of it is
      one, and what lies before is the stem.
    - Elsewhere (``layer1`` of a ResNet, ``features.22`` of a VGG) the stem ends with the last feature of stride 1 or 2,
      or before the module of the first one of stride 4 or more; each later feature ends a stage.

    What lies behind the last stage belongs to it.

    Raises:
        UserError: where ``feature_info`` does not name modules of the network.
    """
    features = [(level["module"], level["reduction"]) for level in getattr(network, "feature_info", ())]
    if not features:
        return _numbered_stages(network)
    by_stride = {stride: name.split(".") for name, stride in features}  # the last one of each stride
    if not {8, 16} <= by_stride.keys():
        raise _untold(network)
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(by_stride[8], by_stride[16], strict=False))
    holder = [name for name, _ in alike]
    try:
        parts, whole = list(_parts(network, holder)), network.get_submodule(".".join(holder))
        places = [(_place(parts, name), stride) for name, stride in features]
    except AttributeError as error:
        raise _untold(network) from error
    inside = [place for place, (name, _) in enumerate(parts) if name.split(".")[:-1] == holder]
    if holder and _are_stages(holder[-1], whole):
        ends = {inside[0] - 1, *inside}
    else:
        later = [place for place, stride in places if stride > 2 and place is not None]
        early = [place for place, stride in places if stride <= 2 and place is not None]
        if not later:
            raise _untold(network)
        ends = {max(early, default=later[0] - 1), *later}
    found: list[Stage] = [dict(_own(network, holder))]  # such as embeddings of positions, which enter at the beginning
    for place, (name, part) in enumerate(parts):
        if _learns(part):
            found[-1][name] = part
        if place in ends:
            found.append({})
    behind = found.pop()
    found[-1] |= behind
    return [stage for stage in found if stage]


def _numbered_stages(network: nn.Module) -> list[Stage]:
    """The children, or those of ``features``, divided before each whose name is a stage's, such as ``layer1``."""
    found: list[Stage] = []
    for name, part in _parts(network, ["features"]):
        if _learns(part):
            if not found or _STAGE.fullmatch(name):
                found.append({})
            found[-1][name] = part
    return found


def _untold(network: nn.Module) -> UserError:
    return UserError(f"train.freeze: the stages of timm's {type(network).__name__} cannot be told; set it to 0 or all")


def _parts(network: nn.Module, holder: list[str]) -> Iterator[tuple[str, nn.Module]]:
    """The children of ``network``, in its order; instead of those on the way to ``holder``, their own children."""
    for name, child in network.named_children():
        if name == (holder or [None])[0]:
            yield from ((f"{name}.{inner}", part) for inner, part in _parts(child, holder[1:]))
        else:
            yield name, child


def _own(network: nn.Module, holder: list[str]) -> Iterator[tuple[str, Parameter]]:
    """Parameters of ``network`` and of the modules on the way to ``holder`` that are in none of their children."""
    for depth in range(len(holder) + 1):
        prefix = ".".join(holder[:depth])
        for name, parameter in network.get_submodule(prefix).named_parameters(recurse=False):
            yield f"{prefix}.{name}".lstrip("."), parameter


def _place(parts: list[tuple[str, nn.Module]], module: str) -> int | None:
    """Which of ``parts`` a module is, or is inside of; None where it is none."""
    return next((i for i, (name, _) in enumerate(parts) if f"{module}.".startswith(f"{name}.")), None)


def _are_stages(name: str, holder: nn.Module) -> bool:
    """Whether the parts of ``holder`` are stages, not blocks or layers."""
    return name.endswith("stages") or all(isinstance(part, nn.Sequential) for part in holder if _learns(part))


def _learns(part: Part) -> bool:
    return isinstance(part, Parameter) or any(True for _ in part.parameters())


def freeze(parts: Iterable[Part]) -> None:
    """Takes ``parts`` out of the training; the optimizer must not exist yet."""
    for part in parts:
        part.requires_grad_(False)


def in_words(frozen: Iterable[Stage]) -> str:
    """The names of the parts of stages, such as ``conv1 … bn1, layer1, layer2``."""
    names = [list(stage) for stage in frozen]
    return ", ".join(part[0] if len(part) == 1 else f"{part[0]} … {part[-1]}" for part in names)


def keep_statistics(model: nn.Module) -> None:
    """Puts frozen layers into evaluation mode: batch norms keep their running statistics, nothing is dropped.

    Call it after ``model.train()``. A module is frozen where it has parameters and none of them learns.
    """
    for layer in model.modules():
        own = list(layer.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            layer.eval()
