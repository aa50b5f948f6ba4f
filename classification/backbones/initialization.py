"""Initial weights that all families share."""

from torch import nn


def kaiming(network: nn.Module) -> None:
    """Draws all convolutions from Kaiming's normal distribution (fan out, gain of ReLU; Sec. IV-A); biases are 0."""
    for module in network.modules():
        # Drawing on the meta device does nothing, and takes seconds the first time.
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
