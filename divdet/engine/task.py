"""What classification and detection give the training loop."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn


class Task(Protocol):
    """What a subject gives the loop.

    Attributes:
        model: this process's part of the network, on its device.
        network: what ``losses`` calls for the network's outputs; the loop puts DDP around the model here.
        best_metric: the number of ``evaluate()`` that chooses best.pt, higher being better; None where nothing can
            be measured: best.pt is then the newest epoch's.
        meta: plain values that a checkpoint needs beside the weights (class names, …).
        weight_decay: the decay after dividing (Eq. 6).
    """

    model: nn.Module
    network: Callable[..., Any]
    best_metric: str | None
    meta: dict[str, Any]
    weight_decay: float

    def losses(self, batch: Any, epoch: float) -> Mapping[str, Tensor]:
        """The losses of a batch, under autocast; ``loss`` is the one that is differentiated. All processes of a replica
        give the same, that of all members. ``epoch`` is where the batch's step ends, a fraction inside an epoch.
        """
        ...

    def evaluate(self) -> dict[str, Any]:
        """The metrics of the evaluation data, on every process; numbers only are logged."""
        ...

    def name(self, index: int) -> str:
        """What a user calls a training image."""
        ...
