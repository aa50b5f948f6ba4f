"""What the planner reads of training runs: network, data, and the best accuracy of their own evaluations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from detection.heads import input_of
from detection.saved import saved_categories, saved_model
from divdet.commands.known_accuracies import METRIC, Accuracy
from divdet.commands.timed_networks import TimedNetwork
from divdet.engine import checkpoint
from divdet.engine.checkpoint import Checkpoint
from divdet.engine.errors import UserError

_CHECKPOINTS = ("last.pt", "best.pt")


class Run(NamedTuple):
    """A run.

    Attributes:
        name: as the user gave it.
        network: what it trained.
        accuracy: its best.
        data: where its validation data is, for people.
        fingerprint: of that data; None in a best.pt, which does not hold it.
    """

    name: str
    network: TimedNetwork
    accuracy: Accuracy
    data: str
    fingerprint: str | None


def read_runs(paths: list[str], task: str | None) -> tuple[list[Run], list[str]]:
    """Reads run folders, or checkpoints; returns the runs and all faults.

    Runs of both tasks, of another one than ``task``, or of different validation data are faults, too.
    """
    runs, faults = [], []
    by_place: dict[str, str] = {}
    for path in paths:
        by_place.setdefault(_place(path), path)
    for path in by_place.values():
        try:
            runs.append(_read(path))
        except UserError as error:
            faults.append(str(error))
    tasks = {run.network.task: run.name for run in runs}
    for own, name in tasks.items():
        if task not in (None, own):
            faults.append(f"--task {task}: {name} is of task {own}: give runs of one task")
    if task is None and len(tasks) > 1:
        faults.append(f"{tasks['det']} is a detector and {tasks['cls']} a classifier: give runs of one task")
    whole = all(run.fingerprint for run in runs)
    data = {(run.fingerprint if whole else run.data, run.network.classes): run for run in runs}
    if len(tasks) == 1 and len(data) > 1:
        listed = ", ".join(f"{run.name} ({run.data})" for run in data.values())
        faults.append(f"{listed}: their validation data differ, and so their accuracies cannot be compared: plan apart")
    return runs, faults


def _place(name: str) -> str:
    """What is the same for a run's folder and for its checkpoints, however they are named."""
    path = Path(name)
    return os.path.realpath(path.parent if path.name in _CHECKPOINTS else path)


def _read(name: str) -> Run:
    path = Path(name)
    if path.is_dir():
        files = [path / file for file in _CHECKPOINTS if (path / file).is_file()]
        if not files:
            raise UserError(f"{name}: no run of train-det or train-cls: it holds neither last.pt nor best.pt")
        path = files[0]
    saved = checkpoint.load(path)
    network = network_of(saved)
    metric = METRIC[network.task]
    lines = [line for line in saved.history if isinstance(line.get(metric), int | float)]
    if not lines:
        raise UserError(f"{path}: has no {metric} of any epoch: train it with validation data")
    best = max(lines, key=lambda line: line[metric])
    accuracy = Accuracy(best[metric], f"measured: {name}, epoch {best.get('epoch', saved.epoch)}")
    fingerprint = saved.run.data.get("validation") if saved.run else None
    return Run(name, network, accuracy, _data(saved), fingerprint)


def network_of(saved: Checkpoint) -> TimedNetwork:
    """The network of a training checkpoint; UserError where the file lacks what it takes."""
    return _detector(saved) if saved.kind == "detection" else _classifier(saved)


def _detector(saved: Checkpoint) -> TimedNetwork:
    model, (names, _) = saved_model(saved), saved_categories(saved)
    size = input_of(model.head, model.input_size).size
    return TimedNetwork(model.backbone, model.members, len(names), size, model.head)


def _classifier(saved: Checkpoint) -> TimedNetwork:
    backbone, meta = saved.setting("model.backbone", str), saved.meta
    classes, size, form = meta.get("classes"), meta.get("image_size"), meta.get("stem")
    if not (isinstance(classes, list) and classes and type(size) is int and form in ("cifar", "imagenet")):
        raise UserError(f"{saved.source}: its classes, image_size or stem is damaged; use another checkpoint")
    return TimedNetwork(backbone, saved.members, len(classes), size, form=form)


def _data(saved: Checkpoint) -> str:
    """Where the validation data is."""
    data: dict[str, Any] = saved.setting("data", dict)
    keys = ("val_annotations", "path", "train_annotations") if saved.kind == "detection" else ("root", "dataset")
    return next((str(data[key]) for key in keys if data.get(key)), "unknown data")
