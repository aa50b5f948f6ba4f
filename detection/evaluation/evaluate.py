"""A detector's COCO numbers on annotated images, fused and by member."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from detection.data.annotations import CocoAnnotations, ImageRecord
from detection.data.coco_results import Results
from detection.data.dataset import EvaluationImages, EvaluationViews
from detection.detector import Detector, to_pixels
from detection.evaluation.coco_metrics import COCO_RULES, METRICS, CocoEvaluator, Rules
from detection.settings import ViewSettings
from detection.views import Found
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
        members: each member's own, likewise; the fused ones where there is one member, and one view.
    """

    metrics: dict[str, Any]
    fused: Results = field(repr=False)
    members: list[Results] = field(repr=False)


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
    rules: Rules = COCO_RULES,
) -> Evaluation:
    """Run a detector over all images of the ground truth, empty ones included; processes of a ``world`` share them.

    A forward pass takes ``batch_size`` inputs: images or, with several ``views`` (in one process), views of them.
    """
    world = world or World()
    evaluators = [CocoEvaluator(annotations) for _ in range(1 + len(detector.model.members))]
    records = annotations.images[world.replica :: world.replicas]
    several = views is not None and views.several
    if several:
        seen = _views(detector, records, batch_size, workers, views)
    else:
        seen = _whole(detector, records, batch_size, workers, world)
    for found in progress(seen, "evaluating", unit="image", total=len(records)):
        for evaluator, own in zip(evaluators, [found.fused, *found.members], strict=True):
            boxes, scores, labels = to_pixels(own, *found.size, detector.input)
            evaluator.add(records[found.image].id, boxes.numpy(), scores.numpy(), labels.numpy())
    for evaluator in evaluators:
        for part in world.gather(evaluator.detections)[1:]:
            evaluator.detections |= part
    alone = len(evaluators) == 2 and not several  # then the member's boxes are the final ones
    if alone:
        evaluators[1] = evaluators[0]

    def metrics() -> dict[str, Any]:
        fused = evaluators[0].metrics(rules)
        by_member = [fused] if alone else [evaluator.metrics(rules) for evaluator in evaluators[1:]]
        return fused | {"members": [{name: own[name] for name in METRICS} for own in by_member]}

    fused, *members = [evaluator.results() for evaluator in evaluators]
    return Evaluation(world.broadcast_from_main(metrics), fused, members)
