"""The fuse command: results of several detectors, fused and compared."""

import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detection.data.annotations import CocoAnnotations, ImageRecord, sizes_of
from detection.data.box_forms import wrong_form
from detection.data.coco_results import Results, load_results, save_results
from detection.data.formats.read import read_annotations
from detection.data.image_index import index_images
from detection.evaluation.coco_metrics import METRICS, evaluate
from detection.evaluation.intervals import Interval, compare, interval_of
from detection.evaluation.result_fusion import fuse_results
from detection.evaluation.score_scales import by_precision, by_rank, scale_fault
from detection.prediction_settings import FusionRule
from detection.settings import EvalDataSettings
from divdet.commands.settings import Fuse
from divdet.engine.errors import UserError
from divdet.engine.files import make_folder, write_json
from divdet.engine.words import counted

_SHOWN = ("AP50", "AP75", "APs", "APm", "APl", "AR100")
_BEYOND = 1.0  # pixels past the border: less is rounding


def fuse(config: Fuse) -> dict[str, Any]:
    """Fuse results files; print each and the fused in one table, and write fused.json and metrics.json.

    Returns:
        The content of metrics.json: the fused numbers as ``eval_det`` gives them; ``members``, those of each file with
        its name and weight; ``AP_interval`` of each; ``gain``, the difference to the best file; ``fusion``, the rule.

    Raises:
        UserError: for files that are unusable, of other images or categories, or of scores of another scale.
    """
    if not config.annotations:
        raise UserError("--annotations is missing: give the ground truth of the images")
    if len(config.results) < 2:
        raise UserError(f"{len(config.results)} results files: give two or more to fuse, as R1.json R2.json …")
    data = EvalDataSettings(val_annotations=config.annotations, val_images=config.images)
    annotations = read_annotations(data, "val", need_images=config.images is not None)
    print(f"{annotations.path}: {annotations.describe()}")
    if config.images:
        _read_sizes(annotations.images)
    files = [str(path) for path in config.results]
    results = [_read(path, annotations) for path in files]
    folder = make_folder(config.output)
    _say_what_is_missing(files, results, annotations)
    own = [evaluate(annotations, member) for member in results]
    weights = _weights(config, own)
    if config.calibrate == "precision":
        print("note: scores are calibrated on the images that the table is about, so the fused numbers are optimistic")
    for path, member in zip(files, results, strict=True):
        member.score = _on_one_scale(path, member, annotations, config)
    rule = FusionRule(
        method=config.method,
        weights=weights,
        iou_thr=config.iou_thr,
        skip_box_thr=config.skip_box_thr,
        conf_type=config.conf_type,
    )
    fused = fuse_results(annotations, results, rule, threads=torch.get_num_threads())
    save_results(fused, annotations, folder / "fused.json")
    intervals = [interval_of(annotations, member) for member in (*results, fused)]
    best = max(range(len(own)), key=lambda i: own[i]["AP"])
    gain = compare(annotations, results[best], fused).AP
    members = [
        {"file": path, "weight": weight}
        | {name: numbers[name] for name in METRICS}
        | {"AP_interval": interval.numbers()}
        for path, weight, numbers, interval in zip(
            files, weights or [1.0] * len(files), own, intervals[:-1], strict=True
        )
    ]
    metrics = evaluate(annotations, fused) | {"AP_interval": intervals[-1].numbers(), "members": members}
    metrics["gain"] = {"over": files[best], **gain.numbers()}
    metrics["fusion"] = asdict(rule) | {"calibrate": config.calibrate}
    write_json(metrics, folder / "metrics.json")
    print(_table([*files, "fused"], [*own, metrics], intervals))
    within = ": no more than the choice of images explains" * (gain.low <= 0 <= gain.high)
    if math.isnan(gain.value):
        print("no objects are annotated, which would tell what the fusion brings")
    else:
        print(f"AP of the fused less that of {files[best]}: {gain}, 95 % interval over images{within}")
    print(f"wrote {folder / 'fused.json'} ({counted(len(fused), 'detection')}) and {folder / 'metrics.json'}")
    return metrics


def _read_sizes(images: list[ImageRecord]) -> None:
    """Take widths and heights that are not annotated from the images themselves, in the layout that is annotated."""
    unknown = [image for image in images if not (image.width and image.height)]
    facts = index_images(image.path for image in unknown)
    for image in unknown:
        if fault := facts[image.path].fault:
            raise UserError(f"{image.path}: {fault}")
        image.width, image.height = facts[image.path].upright if image.upright else facts[image.path][:2]


def _read(path: str, annotations: CocoAnnotations) -> Results:
    """Read a results file and say what it holds; refuse what cannot be x, y, width, height in pixels."""
    results = load_results(path, annotations)
    if form := wrong_form(annotations.images, results):
        raise UserError(f"{path}: {form}")
    covered = len(np.unique(results.image))
    held = f"{counted(len(results), 'detection')} in {covered:,} of {counted(len(annotations.images), 'image')}"
    if len(results):
        held += f", {counted(len(np.unique(results.label)), 'class', 'classes')}"
        held += f", scores {results.score.min():g} to {results.score.max():g}"
    size = sizes_of(annotations.images)[results.image]
    ends = results.bbox[:, :2] + results.bbox[:, 2:]
    beyond = int(((results.bbox[:, :2] < -_BEYOND) | (ends > size + _BEYOND)).any(axis=1).sum())
    cut = "passes the border and is cut there" if beyond == 1 else "pass the border and are cut there"
    print(f"{path}: {held}" + f"; {counted(beyond, 'box', 'boxes')} {cut}" * bool(beyond))
    return results


def _say_what_is_missing(files: list[str], results: list[Results], annotations: CocoAnnotations) -> None:
    """Name the images and classes that a file lacks and others have: their fused scores are lower for it."""
    for what, values, total in (
        ("images", [set(own.image.tolist()) for own in results], len(annotations.images)),
        ("classes", [set(own.label.tolist()) for own in results], len(annotations.names)),
    ):
        every = set().union(*values)
        for path, own in zip(files, values, strict=True):
            lacking = sorted(every - own)
            if not lacking:
                continue
            names = [annotations.images[i].file_name if what == "images" else annotations.names[i] for i in lacking[:3]]
            listed = ", ".join(names) + ", …" * (len(lacking) > 3)
            print(
                f"note: {path} has no detection for {len(lacking)} of {total} {what} for which others have some "
                f"({listed}): it counts as a detector that found nothing there"
            )


def _weights(config: Fuse, metrics: list[dict[str, Any]]) -> list[float] | None:
    """The weights of the files; None where all are equal by default."""
    if config.weights != "ap":
        return config.weights_by_hand(len(metrics))
    weights = [max(own["AP"], 0.0) for own in metrics]
    if not any(weights):
        raise UserError("--weights ap: every file has AP 0 on these annotations: give weights by hand")
    listed = ",".join(f"{weight:.4f}" for weight in weights)
    print(
        f"weights by AP: {listed}; they are measured on the images that the table is about, so the fused numbers are "
        f"optimistic: on other images, give --weights {listed}"
    )
    return weights


def _on_one_scale(path: str, results: Results, annotations: CocoAnnotations, config: Fuse) -> np.ndarray:
    """Scores [n] that the fusion can compare."""
    if config.calibrate == "rank":
        return by_rank(results.score, int((~annotations.truth.crowd).sum()))
    if config.calibrate == "precision":
        return by_precision(annotations, results)
    if fault := scale_fault(results.score):
        raise UserError(f"{path}: has {fault}; or bring all files to one scale by --calibrate rank (or precision)")
    return results.score


def _table(names: list[str], rows: list[dict[str, Any]], intervals: list[Interval]) -> str:
    """The numbers of each file and of the fused boxes."""
    names = _short(names)
    width = max(map(len, names))
    lines = [" ".join([" " * width, f"{'AP':>6}", f"{'95 % interval':^15}", *(f"{name:>6}" for name in _SHOWN)])]
    for name, metrics, interval in zip(names, rows, intervals, strict=True):
        ap, *numbers = (f"{metrics[key]:6.3f}" if metrics[key] > -1 else f"{'–':>6}" for key in ("AP", *_SHOWN))
        within = f"{'–':^15}" if math.isnan(interval.value) else f"{interval.low:7.3f} … {interval.high:5.3f}"
        lines.append(" ".join([f"{name:{width}}", ap, within, *numbers]))
    return "\n".join(lines)


def _short(paths: list[str]) -> list[str]:
    """File names, with their folders where they are not unique."""
    names = Counter(Path(path).name for path in paths)
    return [path if names[Path(path).name] > 1 else Path(path).name for path in paths]
