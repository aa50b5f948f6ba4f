"""Counts a network's parameters and operations on the meta device, without computing anything."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

POOLS = (nn.MaxPool2d, nn.AvgPool2d)


class Cost(NamedTuple):
    """What a network costs.

    Attributes:
        params: weights and biases.
        macs: multiply-adds of convolutions and linear layers.
        gflops: billions of operations in the paper's convention: macs, plus one for each output of a convolution with
            bias, two for each input of a batch norm, one for each output of a pooling window and for each input of a
            global pool (this gives the paper's figures for squeeze-and-excitation networks).
        torch_gflops: billions of operations by torch's counter: two per multiply-add, of convolutions and matrix
            products only.
    """

    params: int
    macs: int
    gflops: float
    torch_gflops: float


def on_meta(module: nn.Module) -> nn.Module:
    """A copy of ``module`` on the meta device: shapes without weights."""
    tensors = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in module.parameters()}
    tensors |= {id(b): b.to("meta") for b in module.buffers()}
    return copy.deepcopy(module, tensors)


def count_cost(module: nn.Module, input_shape: tuple[int, ...]) -> Cost:
    """The cost of one forward pass in evaluation mode on a float32 input.

    Only modules count, each as often as it is called: functional operations (residual additions, activations) cost
    nothing. ``module`` itself is neither run nor changed.
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
        # Batch norm keeps the shape, but PyTorch's meta rule for it takes longer than all others together.
        if isinstance(layer, nn.BatchNorm2d):
            layer.forward = lambda x: x
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes(torch.empty(input_shape, device="meta"))
    params = sum(p.numel() for p in module.parameters())
    return Cost(params, macs, (macs + other) / 1e9, counter.get_total_flops() / 1e9)
