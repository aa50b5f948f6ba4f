"""Batch norms folded into the convolutions before them: the same network in fewer operations, for inference."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from divdet.engine.cost import on_meta

# Subclasses that convolve otherwise (with standardised weights, say) stay as they are. The second is timm's.
_CONVOLUTIONS = ("Conv2d", "Conv2dSame")


def fuse_conv_bn(network: nn.Module, input_shape: tuple[int, ...]) -> nn.Module:
    """A copy of ``network`` for evaluation, with every batch norm folded that is the only reader of a convolution.

    Which those are is seen from a run on the meta device, where shapes pass through and no numbers, so it holds
    whatever the network's code looks like. Equal up to rounding: w' = w·γ/√(σ² + ε), b' = (b − μ)·γ/√(σ² + ε) + β.

    Args:
        network: left as it is. The copy holds weights of its own.
        input_shape: of a float32 input that it takes.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for conv, norm in fusible(network, input_shape):
        fused = fuse_conv_bn_eval(network.get_submodule(conv), network.get_submodule(norm))
        network.set_submodule(conv, fused)
        network.set_submodule(norm, _without_norm(network.get_submodule(norm)))
    return network


def fusible(network: nn.Module, input_shape: tuple[int, ...]) -> list[tuple[str, str]]:
    """Names of the convolutions, and of their batch norms, that can be folded. Takes as ``folded``."""
    shapes = on_meta(network).eval()
    calls: Counter[str] = Counter()
    made: dict[int, str] = {}  # the convolution behind an output
    found: list[tuple[str, str, int]] = []
    outputs: list[Tensor] = []  # kept, so that no two have one id

    def convolved(name: str, output: Tensor) -> None:
        calls[name] += 1
        made[id(output)] = name
        outputs.append(output)

    def normalised(name: str, x: Tensor) -> None:
        calls[name] += 1
        if id(x) in made:
            found.append((made[id(x)], name, id(x)))

    for name, layer in shapes.named_modules():
        if type(layer).__name__ in _CONVOLUTIONS:
            layer.register_forward_hook(lambda layer, inputs, output, name=name: convolved(name, output))
        elif type(layer) is nn.BatchNorm2d or _is_timm_norm(layer):
            layer.register_forward_pre_hook(lambda layer, inputs, name=name: normalised(name, inputs[0]))
    with torch.no_grad(), _Reads() as reads:
        for output in tree_leaves(shapes(torch.empty(input_shape, device="meta"))):
            reads.of[id(output)] += 1  # whoever has the output reads it
    return [(conv, norm) for conv, norm, read in found if calls[conv] == calls[norm] == 1 and reads.of[read] == 1]


class _Reads(TorchDispatchMode):
    """Counts how many operations read each tensor, by its id."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[int] = Counter()
        self.kept: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.kept.append((args, kwargs))
        for argument in (*args, *(kwargs or {}).values()):
            for tensor in argument if isinstance(argument, list | tuple) else [argument]:
                if isinstance(tensor, Tensor):
                    self.of[id(tensor)] += 1
        return func(*args, **(kwargs or {}))


def _is_timm_norm(layer: nn.Module) -> bool:
    """Whether it is timm's batch norm that drops out and activates as well."""
    return isinstance(layer, nn.BatchNorm2d) and type(layer).__name__ == "BatchNormAct2d"


def _without_norm(norm: nn.Module) -> nn.Module:
    return nn.Sequential(norm.drop, norm.act) if _is_timm_norm(norm) else nn.Identity()
