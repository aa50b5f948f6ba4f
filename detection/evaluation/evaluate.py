"""A detector's COCO numbers on annotated images, fused and member by member."""

from typing import Any

from detection.data.coco import CocoAnnotations, load_annotations
from detection.data.dataset import EvaluationImages
from detection.detector import Detector, to_pixels
from detection.evaluation.coco_metrics import CocoEvaluator
from detection.settings import EvalDataSettings, Orientation
from divdet.engine.distributed import World
from divdet.engine.errors import UserError
from divdet.engine.loading import Loader
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


