"""A detector's COCO numbers on annotated images, fused and by member."""

from collections.abc import Iterator
from itertools import count
from typing import Any

from detection.data.annotations import CocoAnnotations, ImageRecord
from detection.data.dataset import EvaluationImages, EvaluationViews
from detection.detector import Detector, to_pixels
from detection.evaluation.coco_metrics import METRICS, CocoEvaluator
from detection.settings import ViewSettings
from detection.views import Found
from divdet.engine.distributed import World
from divdet.engine.loading import Loader
from divdet.engine.progress import progress


def _whole(
    detector: Detector, records: list[ImageRecord], batch_size: int, workers: int, world: World
) -> Iterator[Found]:
    """What is found in each image, in order."""
    numbers = count()
    with Loader(EvaluationImages(records, detector.input), batch_size, workers, detector.device) as loader:
        for inputs, widths, heights in loader:
            members, fused = detector.detect(inputs, world)
            for image, size in enumerate(zip(widths.tolist(), heights.tolist(), strict=True)):
                yield Found(next(numbers), size, [member[image] for member in members], fused[image])


def _views(
    detector: Detector, records: list[ImageRecord], batch_size: int, workers: int, views: ViewSettings
) -> Iterator[Found]:
    """The same by several views of each image."""
    dataset = EvaluationViews(records, views, detector.input, batch_size)
    with Loader(dataset, None, workers, detector.device) as loader:
        yield from detector.detect_views(loader)


def score(
    detector: Detector,
    annotations: CocoAnnotations,
    batch_size: int,
    workers: int = 0,
    world: World | None = None,
    views: ViewSettings | None = None,
) -> tuple[dict[str, Any], CocoEvaluator]:
    """Run a detector over all images of the ground truth, empty ones included; processes of a ``world`` share them.

    A forward pass takes ``batch_size`` inputs: images or, with several ``views`` (in one process), views of them.

    Returns:
        The fused detections' numbers, as ``evaluate`` gives them, and under ``members`` the 12 numbers of each member;
        and the evaluator that holds the fused detections (complete on the main process).
    """
    world = world or World()
    evaluators = [CocoEvaluator(annotations) for _ in range(1 + len(detector.model.members))]
    fused_evaluator, *member_evaluators = evaluators
    records = annotations.images[world.replica :: world.replicas]
    seen = _views(detector, records, batch_size, workers, views) if views and views.several else None
    seen = seen or _whole(detector, records, batch_size, workers, world)
    for found in progress(seen, "evaluating", unit="image", total=len(records)):
        for evaluator, own in zip(evaluators, [found.fused, *found.members], strict=True):
            boxes, scores, labels = to_pixels(own, *found.size, detector.input)
            evaluator.add(records[found.image].id, boxes.numpy(), scores.numpy(), labels.numpy())
    for evaluator in evaluators:
        for part in world.gather(evaluator.detections)[1:]:
            evaluator.detections |= part

    def metrics() -> dict[str, Any]:
        fused = fused_evaluator.metrics()
        # With one member, its boxes are the final ones.
        by_member = [fused] if len(member_evaluators) == 1 else [evaluator.metrics() for evaluator in member_evaluators]
        return fused | {"members": [{name: own[name] for name in METRICS} for own in by_member]}

    return world.broadcast_from_main(metrics), fused_evaluator
