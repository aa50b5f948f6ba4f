"""The start of every network's training."""

from torch import nn


def kaiming(network: nn.Module) -> None:
    """Draws every convolution from Kaiming's normal distribution (fan out, gain of ReLU; Sec. IV-A), with bias 0."""
    for module in network.modules():
        # Drawing on the meta device gives nothing and, the first time, takes seconds.
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
