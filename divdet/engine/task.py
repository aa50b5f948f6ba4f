"""What classification and detection give the training loop."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn


class Task(Protocol):
    """What the training loop trains.

    Attributes:
        model: this process's part of the network, on its device.
        network: what ``losses`` calls for the network's outputs; the loop may wrap it in DDP and torch.compile.
        best_metric: key of ``evaluate()`` that chooses best.pt, higher is better; None makes every epoch the best.
        meta: plain values that a checkpoint needs beside the weights, such as class names.
        weight_decay: after dividing by S (Eq. 6).
        sliced: its members are slices of a network: their batch norms' statistics are estimated before the first step.
        lr_factors: factors on the learning rate of parameters, by a prefix of their names; others have 1.
    """

    model: nn.Module
    network: Callable[..., Any]
    best_metric: str | None
    meta: dict[str, Any]
    weight_decay: float
    sliced: bool
    lr_factors: Mapping[str, float]

    def losses(self, batch: Any, epoch: float) -> Mapping[str, Tensor]:
        """The losses of a batch, under autocast; ``loss`` is differentiated.

        All processes of a replica return the same losses. ``epoch`` is the end of the batch's step, as a fraction.
        """
        ...

    def evaluate(self) -> dict[str, Any]:
        """The metrics on the evaluation data, on every process; only numbers are logged."""
        ...

    def name(self, index: int) -> str:
        """The name of a training image for messages."""
        ...
