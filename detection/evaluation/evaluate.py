"""A detector's COCO numbers on annotated images, fused and by member."""

from dataclasses import dataclass, field
from typing import Any

from detection.data.annotations import CocoAnnotations
from detection.data.coco_results import Results
from detection.data.dataset import EvaluationImages
from detection.detector import Detector, to_pixels
from detection.evaluation.coco_metrics import COCO_RULES, METRICS, CocoEvaluator, Rules
from divdet.engine.distributed import World
from divdet.engine.loading import Loader
from divdet.engine.progress import progress


@dataclass
class Evaluation:
    """What a detector found on annotated images.

    Attributes:
        metrics: the fused detections' numbers, as ``evaluate`` gives them, and under ``members`` the 12 numbers of each
            member; on all processes.
        fused: the fused detections; complete on the main process.
        members: each member's own, likewise. With one member they are the fused ones.
    """

    metrics: dict[str, Any]
    fused: Results = field(repr=False)
    members: list[Results] = field(repr=False)


def score(
    detector: Detector,
    annotations: CocoAnnotations,
    batch_size: int,
    workers: int = 0,
    world: World | None = None,
    rules: Rules = COCO_RULES,
) -> Evaluation:
    """Run a detector over all images of the ground truth, empty ones included; processes of a ``world`` share them."""
    world = world or World()
    evaluators = [CocoEvaluator(annotations) for _ in range(1 + len(detector.model.members))]
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

    if len(evaluators) == 2:  # with one member, its boxes are the final ones
        evaluators[1] = evaluators[0]

    def metrics() -> dict[str, Any]:
        fused = evaluators[0].metrics(rules)
        by_member = [fused] if len(evaluators) == 2 else [evaluator.metrics(rules) for evaluator in evaluators[1:]]
        return fused | {"members": [{name: own[name] for name in METRICS} for own in by_member]}

    fused, *members = [evaluator.results() for evaluator in evaluators]
    return Evaluation(world.broadcast_from_main(metrics), fused, members)
