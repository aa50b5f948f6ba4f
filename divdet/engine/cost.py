"""Parameters and operations of a network, counted without running it: shapes alone pass through, on the meta device."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

POOLS = (nn.MaxPool2d, nn.AvgPool2d)


class Cost(NamedTuple):
    """``params``: weights and biases. ``macs``: multiply-adds of convolutions and linear layers. ``gflops``: billions
    of operations in the paper's convention: macs, plus one for each output of a convolution with bias, two for each
    input of a batch norm, one for each output of a pooling window and for each input of a global pool (so the paper's
    squeeze-and-excitation networks come out as printed). ``torch_gflops``: billions of operations by torch's own
    counter, which counts a multiply-add as two and nothing but convolutions and matrix products.
    """

    params: int
    macs: int
    gflops: float
    torch_gflops: float


def on_meta(module: nn.Module) -> nn.Module:
    """A copy of ``module`` that has shapes only, no weights."""
    tensors = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in module.parameters()}
    tensors |= {id(b): b.to("meta") for b in module.buffers()}
    return copy.deepcopy(module, tensors)


def count_cost(module: nn.Module, input_shape: tuple[int, ...]) -> Cost:
    """Cost of one evaluation of ``module`` on a float32 input of that shape.

    A layer counts as often as it is called. Layers are counted as modules, so operations called as functions (residual
    additions, activations) cost nothing. The module itself, wherever its weights are, is neither run nor changed.
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes 0.2 s to import

    shapes = on_meta(module).eval()
    macs = other = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs, other
        match layer:
            case nn.Conv2d():
                macs += output.numel() * layer.weight[0].numel()
                other += output.numel() if layer.bias is not None else 0
            case nn.Linear():
                macs += output.numel() * layer.in_features
            case nn.BatchNorm2d():
                other += 2 * inputs[0].numel()
            case nn.AdaptiveAvgPool2d():
                other += inputs[0].numel()
            case _ if isinstance(layer, POOLS):
                other += output.numel()

    for layer in shapes.modules():
        layer.register_forward_hook(count)
        # A batch norm keeps its input's shape, and PyTorch's rule for that costs more than all others together.
        if isinstance(layer, nn.BatchNorm2d):
            layer.forward = lambda x: x
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes(torch.empty(input_shape, device="meta"))
    params = sum(p.numel() for p in module.parameters())
    return Cost(params, macs, (macs + other) / 1e9, counter.get_total_flops() / 1e9)
