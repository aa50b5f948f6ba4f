"""A detector's COCO numbers on annotated images, fused and by member."""

from typing import Any

from detection.data.annotations import CocoAnnotations
from detection.data.dataset import EvaluationImages
from detection.detector import Detector, to_pixels
from detection.evaluation.coco_metrics import METRICS, CocoEvaluator
from divdet.engine.distributed import World
from divdet.engine.loading import Loader
from divdet.engine.progress import progress


def score(
    detector: Detector, annotations: CocoAnnotations, batch_size: int, workers: int = 0, world: World | None = None
) -> tuple[dict[str, Any], CocoEvaluator]:
    """Run a detector over all images of the ground truth, empty ones included; processes of a ``world`` share them.

    Returns:
        The fused detections' numbers, as ``evaluate`` gives them, and under ``members`` the 12 numbers of each member;
        and the evaluator that holds the fused detections (complete on the main process).
    """
    world = world or World()
    evaluators = [CocoEvaluator(annotations) for _ in range(1 + len(detector.model.members))]
    fused_evaluator, *member_evaluators = evaluators
    records = annotations.images[world.replica :: world.replicas]
    remaining = iter(records)
    with Loader(EvaluationImages(records, detector.input), batch_size, workers, detector.device) as loader:
        for inputs, widths, heights in progress(loader, "evaluating", unit="batch"):
            members, fused = detector.detect(inputs, world)
            for image, size in enumerate(zip(widths.tolist(), heights.tolist(), strict=True)):
                record = next(remaining)
                for evaluator, results in zip(evaluators, [fused, *members], strict=True):
                    found = to_pixels(results[image], *size, detector.input)
                    evaluator.add(record.id, found.boxes.numpy(), found.scores.numpy(), found.labels.numpy())
    for evaluator in evaluators:
        for part in world.gather(evaluator.detections)[1:]:
            evaluator.detections |= part

    def metrics() -> dict[str, Any]:
        fused = fused_evaluator.metrics()
        # With one member, its boxes are the final ones.
        by_member = [fused] if len(member_evaluators) == 1 else [evaluator.metrics() for evaluator in member_evaluators]
        return fused | {"members": [{name: own[name] for name in METRICS} for own in by_member]}

    return world.broadcast_from_main(metrics), fused_evaluator
