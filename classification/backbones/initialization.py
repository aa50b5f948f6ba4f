"""Initial weights and the classifier that families share."""

from collections import OrderedDict

from torch import nn

from classification.backbones.regularization import Dropout


def kaiming(network: nn.Module) -> None:
    """Draws all convolutions from Kaiming's normal distribution (fan out, gain of ReLU; Sec. IV-A); biases are 0."""
    for module in network.modules():
        # Drawing on the meta device does nothing, and takes seconds the first time.
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def with_classifier(parts: dict[str, nn.Module], channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Named parts in a row that end with ``channels`` channels, an average pool and a linear classifier."""
    parts |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "dropout": Dropout(dropout)}
    network = nn.Sequential(OrderedDict(parts | {"fc": nn.Linear(channels, num_classes)}))
    kaiming(network)
    return network
