"""Layers that training leaves as they are."""

import re
from collections.abc import Iterable

from torch import nn

# Names of modules that are a stage, and of those that hold one stage each.
_STAGE = re.compile(r"(layer|stage|stages|block|blocks|denseblock|s)_?\d+")
_HOLDERS = ("blocks", "stages", "layers", "features")


def stages(network: nn.Module) -> list[list[nn.Module]]:
    """The stages of a backbone from its input on, each a list of modules, parameters of no other stage among them.

    The first stage is the stem. Stages are told by their names (``layer1``, ``stages_0``, the parts of ``blocks``);
    what lies before the first one is the stem, what lies behind one belongs to it.
    """
    found: list[list[nn.Module]] = []
    for name, child in network.named_children():
        if not any(True for _ in child.parameters()):
            continue
        if name in _HOLDERS:
            found += [[part] for part in child.children() if any(True for _ in part.parameters())]
        elif _STAGE.fullmatch(name) or not found:
            found.append([child])
        else:
            found[-1].append(child)
    return found


def freeze(modules: Iterable[nn.Module]) -> None:
    """Takes the parameters of ``modules`` out of the training; the optimizer must not exist yet."""
    for module in modules:
        module.requires_grad_(False)


def keep_statistics(model: nn.Module) -> None:
    """Makes the batch norms of frozen layers use their running statistics; call it after ``model.train()``."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.affine and not layer.weight.requires_grad:
            layer.eval()
