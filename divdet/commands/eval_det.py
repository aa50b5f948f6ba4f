"""The eval_det command: a detector's COCO numbers, or those of a results file."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from detection.class_rules import ClassRules
from detection.data.annotations import CocoAnnotations
from detection.data.category_match import match_categories
from detection.data.coco_results import load_results, save_results
from detection.data.formats.read import read_annotations
from detection.data.prepare import read_validation
from detection.detector import Detector, saved_settings
from detection.evaluation import coco_metrics
from detection.evaluation.analysis import analyze, numbers_of
from detection.evaluation.class_choice import choose_results, choose_truth
from detection.evaluation.coco_metrics import COCO_SIZES, Rules
from detection.evaluation.evaluate import Evaluation, score
from detection.evaluation.intervals import compare, interval_of
from detection.evaluation.tables import class_table, comparison_table, error_lines
from detection.runtimes.exported import is_exported, run_defaults, saved_of
from detection.settings import EvalDataSettings, ViewSettings
from divdet.commands.reporting import report_evaluation
from divdet.commands.settings import Detect, EvaluateDetection, Export
from divdet.engine import checkpoint
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
    defaults = {f"postprocess.{name}": value for name, value in asdict(postprocess).items()}
    defaults |= {"data.orientation": data.orientation} | (run_defaults(saved) if exported else {})
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
    if config.compare and not Path(config.compare).is_file():  # said before the detector runs
        raise UserError(f"compare is {config.compare}, which is no file: give a COCO results file")
    source = Path(config.checkpoint or config.detections)
    folder = Path(config.output or source.parent / "eval")
    rules = Rules(config.max_dets, tuple(config.sizes or COCO_SIZES))
    work = _run_checkpoint if config.checkpoint else _score_file
    annotations, found = work(config, folder, rules)
    others = load_results(config.compare, annotations) if config.compare else None
    metrics = found.metrics
    if config.verify:
        coco_metrics.verify(annotations, found.fused, metrics, rules)
        print("verified: pycocotools gives the same 12 numbers")
    analysis = analyze(annotations, found.fused, config.score_threshold, rules)
    interval = interval_of(annotations, found.fused, rules.max_dets)
    metrics |= numbers_of(analysis, annotations) | {"interval": interval.numbers()}
    print(coco_metrics.format_metrics(metrics))
    if not rules.are_cocos:
        print(" not by COCO's rules: not comparable with others' numbers")
    if metrics["AP"] >= 0 and len(annotations.images) > 1:  # there are objects, and images to draw from
        print(f" AP {interval.value:.3f}, 95 % interval over images {interval.low:.3f} to {interval.high:.3f}")
    if len(metrics["members"]) > 1:
        listed = "  ".join(f"{i + 1}: {member['AP']:.3f}" for i, member in enumerate(metrics["members"]))
        print(f" AP of each member  {listed}")
    print(*class_table(analysis), *error_lines(analysis), sep="\n")
    if others is not None:
        comparison = compare(annotations, others, found.fused, rules.max_dets)
        metrics["comparison"] = {"with": config.compare} | comparison.numbers()
        print(*comparison_table(comparison, config.compare), sep="\n")
    write_json(metrics, folder / "metrics.json")
    print(f"wrote {folder / 'metrics.json'}")
    if config.report:
        report_evaluation(config, annotations, found, rules, folder)
    return metrics


def _score_file(config: EvaluateDetection, folder: Path, rules: Rules) -> tuple[CocoAnnotations, Evaluation]:
    if (config.runtime, config.precision, config.concurrency) != ("torch", "float32", "sequential"):
        raise UserError("--detections is scored as it is: leave out --runtime, --precision and --concurrency")
    if config.several or config.postprocess.class_agnostic:
        raise UserError("--detections is scored as it is: leave out --tile, --tta and --postprocess.class_agnostic")
    annotations = read_annotations(config.data, "val", need_images=False)
    chosen = ClassRules.of(config.postprocess, annotations.names, annotations.category_ids)
    annotations = choose_truth(annotations, chosen)
    print(f"{annotations.path}: {annotations.describe()}")
    results = choose_results(load_results(config.detections, annotations), chosen)
    covered = len(set(results.image.tolist()))
    print(f"{config.detections}: {len(results)} detections in {covered} of {len(annotations.images)} images")
    make_folder(folder)
    unknown = {"members": [], "postprocess": None, "views": None, "runtime": None, "precision": None}
    return annotations, Evaluation(coco_metrics.evaluate(annotations, results, rules) | unknown, results, [])


def _run_checkpoint(config: EvaluateDetection, folder: Path, rules: Rules) -> tuple[CocoAnnotations, Evaluation]:
    use_device(config.device)
    detector = Detector.load(config.checkpoint, config.device, config.postprocess, config)
    make_folder(folder)  # fails before the evaluation, not after it
    annotations = match_categories(detector.category_ids, detector.names, read_validation(config.data, folder))
    if detector.rules.kept is not None:
        print(f"classes: {detector.rules.describe(detector.names)}")
    annotations = choose_truth(annotations, detector.rules)
    print(f"{annotations.path}: {annotations.describe()}")
    workers = min(2, torch.get_num_threads() - 1) if detector.device.type == "cpu" else 4
    with explained(config.batch_size, None, "nothing was written", section=""):
        found = score(detector, annotations, config.batch_size, workers, views=config, rules=rules)
    found.metrics["postprocess"] = asdict(detector.resolved_settings())
    found.metrics["views"] = {field.name: getattr(config, field.name) for field in fields(ViewSettings)}
    found.metrics["runtime"], found.metrics["precision"] = config.runtime, config.precision
    save_results(found.fused, annotations, folder / "detections.json")
    return annotations, found
