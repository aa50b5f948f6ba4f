"""The eval_det command: a detector's COCO numbers, or those of a results file."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from detection.data.annotations import CocoAnnotations
from detection.data.category_match import match_categories
from detection.data.coco_results import Results, load_results, save_results
from detection.data.formats.read import read_annotations
from detection.data.prepare import read_validation
from detection.detector import Detector, saved_settings
from detection.evaluation import coco_metrics
from detection.evaluation.evaluate import score
from detection.runtimes.exported import is_exported, run_defaults, saved_of
from detection.settings import EvalDataSettings
from divdet.commands.settings import Detect, EvaluateDetection, Export
from divdet.engine import checkpoint
from divdet.engine.cli import flatten
from divdet.engine.devices import use_device
from divdet.engine.errors import UserError
from divdet.engine.faults import explained
from divdet.engine.files import make_folder, write_json


def checkpoint_defaults(config: EvaluateDetection | Detect | Export) -> dict[str, Any]:
    """A checkpoint's settings as defaults; without its annotations for detect.py, which runs on other images."""
    if not config.checkpoint:
        return {}
    exported = is_exported(config.checkpoint)
    saved = saved_of(config.checkpoint) if exported else checkpoint.load(config.checkpoint, "detection")
    postprocess, data = saved_settings(saved)
    defaults = flatten(asdict(postprocess), "postprocess.") | {"data.orientation": data.orientation}
    defaults |= run_defaults(config.checkpoint) if exported else {}
    if isinstance(config, Detect):
        return defaults
    if config.data.path or config.data.val_annotations:  # other data; a COCO file may be of the same images
        other_coco = Path(config.data.val_annotations or "").suffix.lower() == ".json"
        return defaults | ({"data.val_images": data.val_images} if other_coco else {})
    places = {field.name: getattr(data, field.name) for field in fields(EvalDataSettings)}
    return {f"data.{name}": value for name, value in places.items()} | defaults


def evaluate(config: EvaluateDetection) -> dict[str, Any]:
    """Evaluate a checkpoint or score a results file.

    Prints the numbers; writes metrics.json and, for a checkpoint, detections.json.
    """
    if bool(config.checkpoint) == bool(config.detections):
        raise UserError("give either --checkpoint (a detector to run) or --detections (a results file to score)")
    source = Path(config.checkpoint or config.detections)
    folder = Path(config.output or source.parent / "eval")
    work = _run_checkpoint if config.checkpoint else _score_file
    annotations, results, metrics = work(config, folder)
    if config.verify:
        coco_metrics.verify(annotations, results, metrics)
        print("verified: pycocotools gives the same 12 numbers")
    write_json(metrics, folder / "metrics.json")
    print(coco_metrics.format_metrics(metrics))
    if len(metrics["members"]) > 1:
        listed = "  ".join(f"{i + 1}: {member['AP']:.3f}" for i, member in enumerate(metrics["members"]))
        print(f" AP of each member  {listed}")
    print(f"wrote {folder / 'metrics.json'}")
    return metrics


def _score_file(config: EvaluateDetection, folder: Path) -> tuple[CocoAnnotations, Results, dict[str, Any]]:
    if (config.runtime, config.precision, config.concurrency) != ("torch", "float32", "sequential"):
        raise UserError("--detections is scored as it is: leave out --runtime, --precision and --concurrency")
    annotations = read_annotations(config.data, "val", need_images=False)
    print(f"{annotations.path}: {annotations.describe()}")
    results = load_results(config.detections, annotations)
    covered = len(set(results.image.tolist()))
    print(f"{config.detections}: {len(results)} detections in {covered} of {len(annotations.images)} images")
    make_folder(folder)
    unknown = {"members": [], "postprocess": None, "runtime": None, "precision": None}
    return annotations, results, coco_metrics.evaluate(annotations, results) | unknown


def _run_checkpoint(config: EvaluateDetection, folder: Path) -> tuple[CocoAnnotations, Results, dict[str, Any]]:
    use_device(config.device)
    detector = Detector.load(config.checkpoint, config.device, config.postprocess, config)
    make_folder(folder)  # fails before the evaluation, not after it
    annotations = match_categories(detector.category_ids, detector.names, read_validation(config.data, folder))
    print(f"{annotations.path}: {annotations.describe()}")
    workers = min(2, torch.get_num_threads() - 1) if detector.device.type == "cpu" else 4
    with explained(config.batch_size, None, "nothing was written", section=""):
        metrics, evaluator = score(detector, annotations, config.batch_size, workers)
    metrics["postprocess"] = asdict(detector.resolved_settings())
    metrics["runtime"], metrics["precision"] = config.runtime, config.precision
    results = evaluator.results()
    save_results(results, annotations, folder / "detections.json")
    return annotations, results, metrics
