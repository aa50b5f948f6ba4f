"""The train_det command: a detector's training, and the page that says what has come of it."""

from collections.abc import Sequence
from typing import Any

from detection.settings import TrainDetection
from detection.training import train as training
from divdet.commands.reporting import report_training
from divdet.engine.callbacks import Callback


def train(config: TrainDetection, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Trains a detector and writes report.html into the run's folder; returns the last epoch's metrics."""
    return training.train(config, report_training if config.report else None, callbacks)
