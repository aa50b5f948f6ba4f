"""Fuses batch norms into the convolutions before them: the same network in fewer operations, for inference."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# By name: other subclasses convolve in other ways (with standardized weights, say). The second one is timm's,
# the third EfficientNet's here.
_CONVOLUTIONS = ("Conv2d", "Conv2dSame", "SameConv2d")


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

    They are found by a run that counts who reads a convolution's output, whatever the network's code looks like. Its
    convolutions and batch norms return zeros of the right shape instead of computing.
    """
    weights = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    network = copy.deepcopy(network, weights).eval()  # with layers of its own, but the same weights
    calls: Counter[str] = Counter()
    found: list[tuple[_Output, str]] = []

    def after_conv(name: str, output: Tensor) -> None:
        calls[name] += 1
        output.made_by = _Output(name)

    def before_norm(name: str, x: Tensor) -> None:
        calls[name] += 1
        if hasattr(x, "made_by"):
            found.append((x.made_by, name))

    for name, layer in network.named_modules():
        if type(layer).__name__ in _CONVOLUTIONS:
            layer.register_forward_hook(lambda layer, inputs, output, name=name: after_conv(name, output))
            if type(layer) is nn.Conv2d and not isinstance(layer.padding, str):
                layer.forward = partial(_zeros, layer)
        elif type(layer) is nn.BatchNorm2d or _is_timm_norm(layer):
            layer.register_forward_pre_hook(lambda layer, inputs, name=name: before_norm(name, inputs[0]))
            layer.forward = torch.zeros_like
    with torch.no_grad(), _Reads():
        weight = next(network.parameters())
        outputs = network(torch.zeros(input_shape, dtype=weight.dtype, device=weight.device))
        _count_reads(outputs)  # by the caller
    return [(conv.name, norm) for conv, norm in found if calls[conv.name] == calls[norm] == conv.reads == 1]


@dataclass
class _Output:
    """The output of a convolution, and how many operations read it."""

    name: str
    reads: int = 0


class _Reads(TorchDispatchMode):
    """Counts the reads of convolutions' outputs."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch would import its compiler, which takes seconds, to tell it about this class

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        _count_reads((args, kwargs))
        return func(*args, **(kwargs or {}))


def _count_reads(arguments: Any) -> None:
    for value in tree_leaves(arguments):
        if hasattr(value, "made_by"):
            value.made_by.reads += 1


def _zeros(conv: nn.Conv2d, x: Tensor) -> Tensor:
    sides = zip(x.shape[2:], conv.kernel_size, conv.stride, conv.padding, conv.dilation, strict=True)
    shape = [
        (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for side, kernel, stride, padding, dilation in sides
    ]
    return x.new_zeros(len(x), conv.out_channels, *shape)


def _is_timm_norm(layer: nn.Module) -> bool:
    """Whether it is timm's batch norm, which also drops out and activates."""
    return isinstance(layer, nn.BatchNorm2d) and type(layer).__name__ == "BatchNormAct2d"
