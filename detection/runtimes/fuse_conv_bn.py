"""Fuses batch norms into the convolutions before them: the same network in fewer operations, for inference."""

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

# By name: other subclasses convolve in other ways (with standardized weights, say). The second one is timm's.
_CONVOLUTIONS = ("Conv2d", "Conv2dSame")


def fuse_conv_bn(network: nn.Module, input_shape: tuple[int, ...]) -> nn.Module:
    """Copies a network for evaluation, with every batch norm fused that is the only reader of a convolution.

    Equal up to rounding: ``w' = w * gamma / sqrt(var + eps)``, ``b' = (b - mean) * gamma / sqrt(var + eps) + beta``.

    Args:
        network: it is not changed, and shares no weights with the copy.
        input_shape: of a float32 input that the network takes.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for conv, norm in fusible(network, input_shape):
        old = network.get_submodule(norm)
        network.set_submodule(conv, fuse_conv_bn_eval(network.get_submodule(conv), old))
        network.set_submodule(norm, nn.Sequential(old.drop, old.act) if _is_timm_norm(old) else nn.Identity())
    return network


def fusible(network: nn.Module, input_shape: tuple[int, ...]) -> list[tuple[str, str]]:
    """Returns the names of the convolutions, and of their batch norms, that can be fused. Arguments as above.

    They are found by a run on the meta device, which computes shapes only, so that any code of the network will do.
    """
    shapes = on_meta(network).eval()
    calls: Counter[str] = Counter()
    outputs: dict[int, tuple[str, Tensor]] = {}  # of convolutions, by id: the tensors are kept, so that ids are unique
    found: list[tuple[str, str, int]] = []

    def after_conv(name: str, output: Tensor) -> None:
        calls[name] += 1
        outputs[id(output)] = name, output

    def before_norm(name: str, x: Tensor) -> None:
        calls[name] += 1
        if id(x) in outputs:
            found.append((outputs[id(x)][0], name, id(x)))

    for name, layer in shapes.named_modules():
        if type(layer).__name__ in _CONVOLUTIONS:
            layer.register_forward_hook(lambda layer, inputs, output, name=name: after_conv(name, output))
        elif type(layer) is nn.BatchNorm2d or _is_timm_norm(layer):
            layer.register_forward_pre_hook(lambda layer, inputs, name=name: before_norm(name, inputs[0]))
    with torch.no_grad(), _Reads() as reads:
        reads.add(shapes(torch.empty(input_shape, device="meta")))  # an output of the network is read by its caller
    return [(conv, norm) for conv, norm, x in found if calls[conv] == calls[norm] == 1 and reads.count[x] == 1]


class _Reads(TorchDispatchMode):
    """Counts how often each tensor is an argument of an operation, by id."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()
        self.kept: list[Tensor] = []  # so that ids are unique

    def add(self, arguments: Any) -> None:
        tensors = [value for value in tree_leaves(arguments) if isinstance(value, Tensor)]
        self.count.update(map(id, tensors))
        self.kept += tensors

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.add((args, kwargs))
        return func(*args, **(kwargs or {}))


def _is_timm_norm(layer: nn.Module) -> bool:
    """Whether it is timm's batch norm, which also drops out and activates."""
    return isinstance(layer, nn.BatchNorm2d) and type(layer).__name__ == "BatchNormAct2d"
