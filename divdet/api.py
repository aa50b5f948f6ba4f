"""Training and evaluation from Python: what the commands of these names do."""

import json
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from divdet.commands import COMMANDS
from divdet.engine.callbacks import Callback, check_callbacks
from divdet.engine.cli import flatten
from divdet.engine.errors import UserError


def train(
    recipe: str | Path | None = None,
    *,
    task: Literal["det", "cls"] = "det",
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> dict[str, Any]:
    """Trains a detector, or co-trains divided classifiers.

    Args:
        recipe: a YAML file, or the name of a recipe such as ``bccd``; by default the fields' defaults.
        task: det or cls.
        callbacks: called during the training; see docs/logging.md.
        settings: fields that replace the recipe's; sections are dicts.

    Returns:
        The last epoch's metrics; an empty dict where a callback ended the run before.

    Raises:
        UserError: for settings or data that cannot be used.
        Stopped: after SIGINT or SIGTERM, when the step at hand is saved.

    Example::

        data = {"train_annotations": "train.json", "train_images": "images"}
        data |= {"val_annotations": "val.json", "val_images": "images"}
        divdet.train("bccd", data=data, train={"epochs": 30}, output="runs/mine")["AP"]
    """
    check_callbacks(callbacks)
    if task not in ("det", "cls"):
        raise UserError(f"task is {task!r}: choose det or cls")
    if not isinstance(recipe, str | PathLike | None):
        raise UserError(
            f"recipe is {type(recipe).__name__}: give a file or a name; fields are arguments: train(**fields)"
        )
    name, words = f"train-{task}", ["--config", str(recipe)] if recipe else []
    return COMMANDS[name].call(_settings(name, settings, *words), callbacks=callbacks)


def evaluate(
    checkpoint: str | Path | Callable[..., Any], *, names: Sequence[str] | None = None, **settings: Any
) -> dict[str, Any]:
    """Evaluates a checkpoint on its own validation data, or on that of ``settings``; or a detector of any library.

    Args:
        checkpoint: of a detector or of classifiers, or an exported detector; or a COCO results file (``.json``) of any
            detector, or a folder of YOLO's label files with confidences, to be scored with ``data``; or what is called
            with an image: a ``Fusion``, or a detector such as ``Fusion`` takes, whose boxes then stay as they are.
        names: class names by label, for a detector that returns labels alone; see ``Fusion``.
        settings: fields of ``divdet eval-det`` or ``divdet eval-cls``; sections are dicts. For what is called,
            ``data`` is needed, and files are written only if ``output`` is given.

    Returns:
        What the command writes as metrics.json.

    Raises:
        UserError: for a checkpoint, settings or data that cannot be used.

    Example::

        divdet.evaluate("runs/mine/best.pt", postprocess={"fusion_conf": "max"})["AP50"]
        data = {"val_annotations": "val.json", "val_images": "images"}
        divdet.evaluate(divdet.Fusion([mine, theirs]), data=data)["AP"]
    """
    if callable(checkpoint):
        return _evaluate_calls(checkpoint, names, settings)
    if names is not None:
        raise UserError("names is for detectors that are called: a checkpoint has its own; leave it out")
    if not isinstance(checkpoint, str | PathLike):
        raise UserError(
            f"checkpoint is {type(checkpoint).__name__}: give a file's path, or what is called with an image"
        )
    if Path(checkpoint).name.lower().endswith((".json", ".json.gz")) or Path(checkpoint).is_dir():
        return _run("eval-det", settings, "--detections", str(checkpoint))
    from detection.runtimes.exported import is_exported
    from divdet.engine.checkpoint import load

    several = "," in str(checkpoint) and not Path(checkpoint).is_file()  # of detectors, to be fused
    detector = several or is_exported(checkpoint)
    task = "det" if detector or load(checkpoint).kind != "classification" else "cls"
    return _run(f"eval-{task}", settings, "--checkpoint", str(checkpoint))


def _evaluate_calls(detector: Callable[..., Any], names: Sequence[str] | None, settings: dict[str, Any]) -> dict:
    from detection.ensembles import Fusion
    from divdet.commands.eval_det import evaluate_calls

    if isinstance(detector, Fusion) and names is not None:
        raise UserError("names is given for a Fusion: give it to Fusion(..., names=…)")
    fusion = detector if isinstance(detector, Fusion) else Fusion([detector], names=names)
    return evaluate_calls(fusion, _settings("eval-det", settings))


def fuse_results(
    annotations: str | Path,
    results: Sequence[str | Path],
    *,
    weights: Sequence[float] | str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Fuses COCO results files of any detectors.

    Args:
        annotations: ground truth of the images.
        results: the files.
        weights: one for each file, or "ap"; default: equal.
        settings: fields of ``divdet fuse``, such as ``method``, ``iou_thr`` and ``output``.

    Returns:
        What the command writes as metrics.json.

    Raises:
        UserError: for files or settings that cannot be used.

    Example::

        divdet.fuse_results("val.json", ["yolo.json", "rcnn.json"], weights=[2, 1], output="runs/both")["AP"]
    """
    if isinstance(results, str | PathLike) or not isinstance(results, Iterable):
        raise UserError(f"results is {results!r}: give a list of two or more files")
    return _run("fuse", settings | {"annotations": annotations, "weights": weights}, *map(str, results))


def _run(name: str, settings: dict[str, Any], *words: str) -> dict[str, Any]:
    return COMMANDS[name].call(_settings(name, settings, *words))


def _settings(name: str, settings: dict[str, Any], *words: str) -> Any:
    def plain(value: Any) -> Any:  # NumPy's and torch's numbers and lists; paths, devices
        return value.tolist() if hasattr(value, "tolist") else str(value)

    def text(value: Any) -> str:
        value = json.loads(json.dumps(value, default=plain))
        return value if isinstance(value, str) else json.dumps(value)

    options = [f"--{key}={text(value)}" for key, value in flatten(settings).items()]
    return COMMANDS[name].parse([*words, *options], f"divdet {name}")
