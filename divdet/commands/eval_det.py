"""The eval_det command: a detector's COCO numbers, or those of a results file."""

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from detection.boxes import ClassRules
from detection.data.annotations import CocoAnnotations
from detection.data.box_forms import wrong_form
from detection.data.category_match import match_categories
from detection.data.coco_results import Results, load_results, save_results
from detection.data.formats.read import is_training_split, read_annotations
from detection.data.prepare import read_validation
from detection.data.yolo_results import label_files
from detection.detector import Detector, saved_settings
from detection.ensembles import Fusion
from detection.evaluation import coco_metrics
from detection.evaluation.analysis import analyze, numbers_of
from detection.evaluation.class_choice import choose_results, choose_truth, keep_categories
from detection.evaluation.coco_metrics import COCO_SIZES, Rules
from detection.evaluation.evaluate import Evaluation, score, score_fusion
from detection.evaluation.intervals import compare, interval_of
from detection.evaluation.tables import class_table, comparison_table, error_lines
from detection.prediction_settings import PostprocessSettings, ViewSettings
from detection.settings import EvalDataSettings
from divdet.commands.fused_checkpoints import (
    checkpoints_of,
    describe_runs,
    load_fusion,
    prediction_defaults,
    read_saved,
)
from divdet.commands.reporting import report_evaluation
from divdet.commands.settings import Detect, EvaluateDetection, Export
from divdet.engine.distributed import World
from divdet.engine.errors import UserError
from divdet.engine.faults import explained
from divdet.engine.files import make_folder, write_json
from divdet.engine.launch import processes
from divdet.engine.words import counted

Work = Callable[[EvaluateDetection, Path | None, Rules, World], tuple[CocoAnnotations, Evaluation]]
_OF_CHECKPOINTS = ("postprocess", "batch_size", "tile", "tta", "runtime", "precision", "concurrency", "devices")


def checkpoint_defaults(config: EvaluateDetection | Detect | Export) -> dict[str, Any]:
    """The settings of a checkpoint, the first of several, as defaults; for divdet detect without its annotations."""
    if not config.checkpoint:
        return {}
    saved = read_saved(checkpoints_of(config)[0])
    data = saved_settings(saved)[1]
    defaults = prediction_defaults(config, saved) | {"data.orientation": data.orientation}
    if isinstance(config, Detect):
        return defaults
    if config.data.path or config.data.val_annotations:  # a COCO file beside the checkpoint's has its images
        given, own = (Path(file or "").absolute() for file in (config.data.val_annotations, data.val_annotations))
        same_images = given.suffix.lower() == ".json" and given.parent == own.parent
        return defaults | ({"data.val_images": data.val_images} if same_images else {})
    places = {field.name: getattr(data, field.name) for field in fields(EvalDataSettings)}
    for place in filter(None, (data.path, data.val_annotations)):
        if not isinstance(config, Export) and not Path(place).exists():
            raise UserError(f"{saved.source}: its data, {place}, is not here: run where the path holds, or give --data")
    return {f"data.{name}": value for name, value in places.items()} | defaults


def evaluate(config: EvaluateDetection) -> dict[str, Any]:
    """Evaluate a checkpoint, or the fusion of several, or score a results file.

    Prints the numbers; writes metrics.json and, for checkpoints, detections.json.
    """
    if bool(config.checkpoint) == bool(config.detections):
        raise UserError("give either --checkpoint (a detector to run) or --detections (a results file to score)")
    paths = checkpoints_of(config)
    source = Path(paths[0] if paths else config.detections)
    folder = Path(config.output or source.parent / ("eval" if len(paths) < 2 else "eval_fusion"))
    work = _score_file
    if paths:
        work = _run_checkpoint if len(paths) == 1 else _run_checkpoints
    return _evaluate(config, work, folder)


def evaluate_calls(detectors: Fusion, config: EvaluateDetection) -> dict[str, Any]:
    """Evaluates detectors that are called from Python; writes files only where ``output`` is given."""
    asked = [name for name in _OF_CHECKPOINTS if getattr(config, name) != getattr(EvaluateDetection(), name)]
    if asked:
        raise UserError(f"{asked[0]} is for checkpoints: detectors from Python are called as they are; leave it out")
    if config.report and not config.output:
        raise UserError("report is set without output: give the folder to write report.html into")

    def run(
        config: EvaluateDetection, folder: Path | None, rules: Rules, world: World
    ) -> tuple[CocoAnnotations, Evaluation]:
        _refuse_processes(world, "detectors from Python are")
        return _run_fusion(detectors, config, folder, rules)

    return _evaluate(config, run, Path(config.output) if config.output else None)


def _evaluate(config: EvaluateDetection, work: Work, folder: Path | None) -> dict[str, Any]:
    """Runs ``work``, prints what it found, and writes it into ``folder``; of several processes the main one alone."""
    other = Path(config.compare or ".")
    if config.compare and not (other.is_file() or label_files(other)):  # said before the detector runs
        fault = "holds no results" if other.is_dir() else "is not there"
        what = "a COCO results file, or a folder of YOLO's label files with confidences"
        raise UserError(f"compare is {config.compare}, which {fault}: give {what}")
    rules = Rules(config.max_dets, tuple(config.sizes or COCO_SIZES))
    with processes(config.device, 1, False) as (world, device):
        config = replace(config, device=str(device))
        annotations, found = work(config, folder, rules, world)
    metrics = found.metrics
    if not world.is_main_process:
        return metrics
    others = _read_results(config.compare, annotations) if config.compare else None
    if config.verify:
        coco_metrics.verify(annotations, found.fused, metrics, rules)
        print("verified: pycocotools gives the same 12 numbers")
    analysis = analyze(annotations, found.fused, config.at_score, rules)
    interval = interval_of(annotations, found.fused, rules.max_dets)
    metrics |= numbers_of(analysis, annotations) | {"interval": interval.numbers()}
    comparison = None if others is None else compare(annotations, others, found.fused, rules.max_dets)
    if comparison:
        metrics["comparison"] = {"with": config.compare} | comparison.numbers()
    if folder:  # before anything is printed: a reader such as head may leave early
        write_json(metrics, folder / "metrics.json")
    page = report_evaluation(config, annotations, found, rules, folder) if folder and config.report else None
    print(coco_metrics.format_metrics(metrics))
    if not rules.are_cocos:
        print(" not by COCO's rules: not comparable with others' numbers")
    if metrics["AP"] >= 0 and len(annotations.images) > 1:  # there are objects, and images to draw from
        print(f" AP {interval.value:.3f}, 95 % interval over images {interval.low:.3f} to {interval.high:.3f}")
    if len(metrics["members"]) > 1:
        listed = "  ".join(f"{i + 1}: {member['AP']:.3f}" for i, member in enumerate(metrics["members"]))
        print(f" AP of each member  {listed}")
    print(*class_table(analysis), *error_lines(analysis), sep="\n")
    if comparison:
        print(*comparison_table(comparison, config.compare), sep="\n")
    if folder:
        print(f"wrote {folder / 'metrics.json'}")
    if page:
        print(page)
    return metrics


def _score_file(
    config: EvaluateDetection, folder: Path, rules: Rules, world: World
) -> tuple[CocoAnnotations, Evaluation]:
    _refuse_processes(world, "--detections is")
    if (config.runtime, config.precision, config.concurrency) != ("torch", "float32", "sequential"):
        raise UserError("--detections is scored as it is: leave out --runtime, --precision and --concurrency")
    if config.several:
        raise UserError("--detections is scored as it is: leave out --tile and --tta")
    for name, default in asdict(PostprocessSettings()).items():
        if name not in ("classes", "class_thresholds") and getattr(config.postprocess, name) != default:
            raise UserError(f"--detections is scored as it is: leave out --postprocess.{name}")
    pictures = config.report and config.data.val_images is not None
    annotations = read_annotations(config.data, "val", need_images=pictures)
    chosen = ClassRules.of(config.postprocess, annotations.names, annotations.category_ids)
    annotations = choose_truth(annotations, chosen)
    print(f"{annotations.path}: {annotations.describe()}")
    results = choose_results(_read_results(config.detections, annotations), chosen)
    make_folder(folder)
    unknown = {"members": [], "postprocess": None, "views": None, "runtime": None, "precision": None}
    return annotations, Evaluation(coco_metrics.evaluate(annotations, results, rules) | unknown, results, [])


def _read_results(path: str, annotations: CocoAnnotations) -> Results:
    """Reads a results file and says what it holds, also where its boxes do not look like x, y, width, height."""
    results = load_results(path, annotations)
    covered = len(set(results.image.tolist()))
    print(f"{path}: {counted(len(results), 'detection')} in {covered:,} of {counted(len(annotations.images), 'image')}")
    if form := wrong_form(annotations.images, results):
        print(f"note: {path} {form}")
    return results


def _refuse_processes(world: World, what: str) -> None:
    if world.size > 1:
        raise UserError(f"{what} evaluated by one process: start it without torchrun")


def _run_checkpoint(
    config: EvaluateDetection, folder: Path, rules: Rules, world: World
) -> tuple[CocoAnnotations, Evaluation]:
    if config.several:
        _refuse_processes(world, "--tile and --tta are")
    detector = Detector.load(config.checkpoint, config.device, config.postprocess, config)
    make_folder(folder)  # fails before the evaluation, not after it
    annotations = read_validation(config.data, folder, world)
    if is_training_split(config.data, saved_settings(read_saved(config.checkpoint))[1]):
        print("note: the checkpoint was trained on these images, or most of them: its AP says nothing about others")
    if detector.rules.kept is not None:  # a detector of some of the annotations' classes can be evaluated on them
        print(f"classes: {detector.rules.describe(detector.names)}")
        wanted = {name for name, kept in zip(detector.names, detector.rules.kept.tolist(), strict=True) if kept}
        annotations = keep_categories(annotations, wanted)
    annotations = match_categories(detector.category_ids, detector.names, annotations)
    annotations = choose_truth(annotations, detector.rules)
    print(f"{annotations.path}: {annotations.describe()}")
    workers = min(2, torch.get_num_threads() - 1) if detector.device.type == "cpu" else 4
    with explained(config.batch_size, None, "nothing was written", section=""):
        found = score(detector, annotations, config.batch_size, workers, world, views=config, rules=rules)
    found.metrics["postprocess"] = asdict(detector.resolved_settings())
    found.metrics["views"] = {field.name: getattr(config, field.name) for field in fields(ViewSettings)}
    found.metrics["runtime"], found.metrics["precision"] = config.runtime, config.precision
    if world.is_main_process:
        save_results(found.fused, annotations, folder / "detections.json")
    return annotations, found


def _run_checkpoints(
    config: EvaluateDetection, folder: Path, rules: Rules, world: World
) -> tuple[CocoAnnotations, Evaluation]:
    _refuse_processes(world, "several checkpoints are")
    annotations, found = _run_fusion(load_fusion(config), config, folder, rules)
    found.metrics |= describe_runs(config)
    return annotations, found


def _run_fusion(
    fusion: Fusion, config: EvaluateDetection, folder: Path | None, rules: Rules
) -> tuple[CocoAnnotations, Evaluation]:
    if folder:
        make_folder(folder)
    annotations = read_validation(config.data, folder)
    if fusion.complete:  # all classes are known: those that are missing are refused before the work
        match_categories([None] * len(fusion.names), fusion.names, annotations)
    chosen = ClassRules.of(config.postprocess, annotations.names, annotations.category_ids)
    annotations = choose_truth(annotations, chosen)
    print(f"{annotations.path}: {annotations.describe()}")
    with explained(config.batch_size, None, "nothing was written", section=""):
        found = score_fusion(fusion, annotations, rules)
    found.metrics |= {"postprocess": None, "views": None, "fusion": asdict(fusion.rule)}
    found.metrics |= {"runtime": config.runtime, "precision": config.precision}
    if folder:
        save_results(found.fused, annotations, folder / "detections.json")
    return annotations, found
