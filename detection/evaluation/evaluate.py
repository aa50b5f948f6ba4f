"""A detector's COCO numbers on annotated images, fused and member by member."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from detection.data.coco import CocoAnnotations, check_same_categories, load_annotations
from detection.data.coco_results import load_results, save_results
from detection.data.dataset import EvaluationImages
from detection.data.orientation import Orientation
from detection.detector import Detector, saved_orientation, saved_postprocess, to_pixels
from detection.evaluation.coco_metrics import CocoEvaluator, format_metrics
from detection.evaluation.coco_metrics import evaluate as coco_metrics
from detection.training.config import Detect, EvalDataSettings, EvaluateDetection
from divdet.engine import checkpoint
from divdet.engine.cli import flatten
from divdet.engine.devices import use_device
from divdet.engine.distributed import World
from divdet.engine.errors import UserError
from divdet.engine.faults import explained
from divdet.engine.files import make_folder, write_json
from divdet.engine.loading import Loader
from divdet.engine.memory import keep_freed_memory
from divdet.engine.progress import progress


def score(
    detector: Detector,
    annotations: CocoAnnotations,
    batch_size: int,
    workers: int = 0,
    world: World | None = None,
) -> tuple[dict[str, Any], CocoEvaluator]:
    """Runs a detector over all images of the ground truth, empty ones included; each process of a ``world`` over its
    part of them.

    Returns:
        The metrics of contracts' ``metrics.json`` (fused, and ``members``: the same of each), and the evaluator
        that holds the fused detections (on the first process).
    """
    world = world or World()
    fused_evaluator = CocoEvaluator(annotations)
    evaluators = [CocoEvaluator(annotations) for _ in detector.model.members]
    records = annotations.images[world.replica :: world.replicas]
    position = 0
    with Loader(EvaluationImages(records), batch_size, workers, detector.device) as loader:
        for inputs, widths, heights in progress(loader, "evaluating", unit="batch"):
            members, fused = detector.detect(inputs, world)
            sizes = list(zip(widths.tolist(), heights.tolist(), strict=True))
            for evaluator, results in [(fused_evaluator, fused), *zip(evaluators, members, strict=True)]:
                for offset, (result, size) in enumerate(zip(results, sizes, strict=True)):
                    pixels = to_pixels(result, *size)
                    evaluator.add(
                        records[position + offset].id,
                        pixels.boxes.double().numpy(),
                        pixels.scores.double().numpy(),
                        pixels.labels.numpy(),
                    )
            position += len(sizes)
    found = [fused_evaluator, *evaluators]
    for evaluator in found:
        for part in world.gather(evaluator.detections)[1:]:
            evaluator.detections |= part
    return world.broadcast_from_main(lambda: _all_metrics(found)), fused_evaluator


def _all_metrics(found: list[CocoEvaluator]) -> dict[str, Any]:
    fused, *members = found
    metrics = fused.metrics()
    # A single member's boxes are the fused ones.
    metrics["members"] = [_numbers(member.metrics() if len(members) > 1 else metrics) for member in members]
    return metrics


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def read_ground_truth(data: EvalDataSettings) -> CocoAnnotations:
    """The evaluation data of a configuration.

    Raises:
        UserError: when it is not configured, or as ``load_annotations`` does.
    """
    names = ("data.val_annotations", "data.val_images")
    return read_annotations(data.val_annotations, data.val_images, *names, data.orientation)


def read_annotations(
    file: str | None, images: str | None, file_key: str, images_key: str, orientation: Orientation = "auto"
) -> CocoAnnotations:
    """Reads ground truth that two configuration keys name."""
    for key, value in ((file_key, file), (images_key, images)):
        if not value:
            raise UserError(f"{key} is not set: give it in the config file or as --{key}")
    return load_annotations(file, images, orientation)


def checkpoint_defaults(config: EvaluateDetection | Detect) -> dict[str, Any]:
    """The settings that a checkpoint brings along, as defaults below the command line.

    detect.py takes no annotations from there: it is run on other images.
    """
    if not config.checkpoint:
        return {}
    saved = checkpoint.load(config.checkpoint, "detection")
    defaults = flatten(asdict(saved_postprocess(saved, config.checkpoint)), "postprocess.")
    defaults["data.orientation"] = saved_orientation(saved, config.checkpoint)
    if isinstance(config, Detect):
        return defaults
    try:
        data = {f"data.{key}": saved["config"]["data"][key] for key in ("val_annotations", "val_images")}
    except (KeyError, TypeError) as error:
        raise UserError(f"{config.checkpoint}: its settings are damaged ({error!r})") from error
    return defaults | data


def evaluate(config: EvaluateDetection) -> dict[str, Any]:
    """Evaluates a checkpoint or scores a results file.

    Prints the numbers; writes metrics.json and, for a checkpoint, detections.json.

    Raises:
        UserError: for unusable input or an unwritable output folder.
    """
    if bool(config.checkpoint) == bool(config.detections):
        raise UserError("give either --checkpoint (a detector to run) or --detections (a results file to score)")
    source = Path(config.checkpoint or config.detections)
    folder = Path(config.output or source.parent / "eval")
    if config.detections:
        if (config.runtime, config.precision, config.concurrency) != ("torch", "float32", "sequential"):
            raise UserError("--detections is scored as it is: leave out --runtime, --precision and --concurrency")
        if not config.data.val_annotations:
            raise UserError("data.val_annotations is not set: give the ground truth as --data.val_annotations")
        annotations = load_annotations(config.data.val_annotations, None)
        results = load_results(config.detections, annotations)
        covered = len(set(results.image.tolist()))
        print(f"{config.detections}: {len(results)} detections in {covered} of {len(annotations.images)} images")
        make_folder(folder)
        unknown = {"postprocess": None, "runtime": None, "precision": None}
        metrics = coco_metrics(annotations, results) | {"members": []} | unknown
    else:
        keep_freed_memory()
        use_device(config.device)
        detector = Detector.load(config.checkpoint, config.device, config.postprocess, config)
        annotations = read_ground_truth(config.data)
        check_same_categories(detector.category_ids, detector.names, annotations)
        print(f"{config.data.val_annotations}: {annotations.describe()}")
        make_folder(folder)  # before the long part
        workers = min(2, torch.get_num_threads() - 1) if detector.device.type == "cpu" else 4
        with explained(config.batch_size, None, "nothing was written", section=""):
            metrics, evaluator = score(detector, annotations, config.batch_size, workers)
        metrics["postprocess"] = asdict(detector.resolved_settings())
        metrics["runtime"], metrics["precision"] = config.runtime, config.precision
        save_results(evaluator.results(), annotations, folder / "detections.json")
    write_json(metrics, folder / "metrics.json")
    print(format_metrics(metrics))
    if len(metrics["members"]) > 1:
        listed = "  ".join(f"{i + 1}: {member['AP']:.3f}" for i, member in enumerate(metrics["members"]))
        print(f" AP of each member  {listed}")
    print(f"wrote {folder / 'metrics.json'}")
    return metrics
