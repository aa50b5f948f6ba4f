"""Writes report.html, for the commands that train and evaluate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detection.data.annotations import CocoAnnotations
from detection.evaluation.coco_metrics import COCO_RULES, Rules
from detection.evaluation.evaluate import Evaluation
from detection.heads import title_of
from detection.visual.report import Report, write_report
from divdet.commands.fused_checkpoints import read_saved
from divdet.commands.settings import EvaluateDetection
from divdet.engine.errors import UserError

if TYPE_CHECKING:
    from detection.training.train import DetectionTask


def report_training(task: DetectionTask, folder: Path) -> None:
    """Writes the page of a run's best evaluation."""
    found = task.evaluation
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    scored = [line for line in history if "AP" in line]
    best = max(scored, key=lambda line: line["AP"])
    epoch = [line["epoch"] for line in scored if line["AP"] == found.metrics["AP"]]
    epoch = epoch[0 if task.best_metric else -1]  # as best.pt
    shown = f"{folder / 'best.pt'}, epoch {epoch} of {history[-1]['epoch']}"
    if best["AP"] > found.metrics["AP"]:  # resumed after its best epoch
        shown = f"epoch {epoch}; best.pt is of epoch {best['epoch']}, whose page eval-det --report makes"
    config = task.config
    about = {"Checkpoint": shown, **_describe(vars(config.model), vars(task.detector.resolved_settings()))}
    print(_save(Report(task.ground_truth, found, about=about, history=history, rules=COCO_RULES), folder))


def report_evaluation(
    config: EvaluateDetection, annotations: CocoAnnotations, found: Evaluation, rules: Rules, folder: Path
) -> str:
    """Writes the page of a checkpoint, or of a results file; returns what to print of it."""
    about: dict[str, object] = {"Results": config.detections}
    history, complete = [], False
    if rule := found.metrics.get("fusion"):
        about = {"Detectors": config.checkpoint or f"{len(found.members)}, called from Python"}
        about["Fusion"] = ", ".join(f"{name} {value}" for name, value in rule.items() if value is not None)
    elif config.checkpoint:
        saved = read_saved(config.checkpoint)
        history = saved.history
        complete = saved.epoch == saved.config.get("train", {}).get("epochs")  # best.pt may end before
        about = {"Checkpoint": f"{config.checkpoint}, epoch {saved.epoch}"}
        about |= _describe(saved.config.get("model", {}), found.metrics["postprocess"])
        about["Runtime"] = f"{config.runtime}, {config.precision}"
    images = not config.detections or any(record.path.is_file() for record in annotations.images[:1])
    return _save(Report(annotations, found, rules, config.at_score, about, history, complete, images), folder)


def _describe(model: Mapping[str, Any], postprocess: Mapping[str, Any]) -> dict[str, str]:
    size = model.get("input_size")
    members = f"S={model.get('members')}"
    words = [title_of(model["head"], size)] if model.get("head") else []
    words += [str(model.get("backbone")), members]
    words += [f"from {model['pretrained']}"] if model.get("pretrained") else []
    words += [f"from slices of {model['divide_from']}"] if model.get("divide_from") else []
    listed = ", ".join(f"{name} {value}" for name, value in postprocess.items() if value is not None)
    return {"Model": ", ".join(words), "Postprocess": listed}


def _save(report: Report, folder: Path) -> str:
    path = folder / "report.html"
    try:
        write_report(report, path)
    except UserError as error:  # all else is written
        return f"note: there is no report: {error}"
    return f"wrote {path}"
