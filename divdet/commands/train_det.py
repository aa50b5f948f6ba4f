"""The train_det command: a detector's training, and the page that says what it has become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detection.settings import TrainDetection
from detection.training import train as training
from divdet.commands.reporting import describe_model, save_report


def train(config: TrainDetection) -> dict[str, Any]:
    """Trains a detector and writes report.html into the run's folder; returns the last epoch's metrics."""
    return training.train(config, _finish if config.report else None)


def _finish(task: training.DetectionTask, folder: Path) -> None:
    found = task.evaluation
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    scored = [line for line in history if "AP" in line]
    best = max(scored, key=lambda line: line["AP"])
    epoch = [line["epoch"] for line in scored if line["AP"] == found.metrics["AP"]][-1]
    shown = f"epoch {epoch} of {history[-1]['epoch']}"
    if best["AP"] > found.metrics["AP"]:  # a run that was resumed after its best epoch
        shown += f"; epoch {best['epoch']}, before the run was resumed, had AP {best['AP']:.3f}: best.pt is of it"
    about = {"Run": folder, "Shown": shown, **describe_model(task.detector)}
    save_report(task.ground_truth, found, about, history, folder)
