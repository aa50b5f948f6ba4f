"""A detector's COCO numbers on annotated images, fused and by member."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from detection.data.annotations import CocoAnnotations, ImageRecord
from detection.data.coco_results import Results
from detection.data.dataset import EvaluationImages, EvaluationViews, read_record
from detection.detector import Detector, to_pixels
from detection.ensembles import Fusion
from detection.evaluation.coco_metrics import COCO_RULES, METRICS, CocoEvaluator, Rules
from detection.prediction_settings import ViewSettings
from detection.views import Found
from divdet.engine.distributed import World
from divdet.engine.errors import UserError
from divdet.engine.loading import Loader
from divdet.engine.progress import progress
from divdet.engine.words import counted, named


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
    records = [  # whole batches, which are the same in any number of processes
        record
        for start in range(world.replica * batch_size, len(annotations.images), world.replicas * batch_size)
        for record in annotations.images[start : start + batch_size]
    ]
    several = views is not None and views.several
    if several:
        seen = _views(detector, records, batch_size, workers, views)
    else:
        seen = _whole(detector, records, batch_size, workers, world)
    for found in progress(seen, "evaluating", unit="image", total=len(records)):
        for evaluator, own in zip(evaluators, [found.fused, *found.members], strict=True):
            boxes, scores, labels = to_pixels(own, *found.size, detector.input)
            evaluator.add(records[found.image].id, boxes.numpy(), scores.numpy(), labels.numpy())
    world.await_all()  # the shares may take hours, and not the same time
    for evaluator in evaluators:
        for part in world.gather(evaluator.detections)[1:]:
            evaluator.detections |= part
    alone = len(evaluators) == 2 and not several  # then the member's boxes are the final ones
    return _evaluation(evaluators, alone, rules, world)


def score_fusion(fusion: Fusion, annotations: CocoAnnotations, rules: Rules = COCO_RULES) -> Evaluation:
    """Run detectors of any libraries over all images of the ground truth; classes are matched by name.

    What they find of classes that the ground truth does not list is left out; a line says how much.

    Raises:
        UserError: for results that do not fit, naming the image; and if they know no class of the ground truth.
    """
    labels = {name: label for label, name in enumerate(annotations.names)}
    if len(labels) < len(annotations.names):
        raise UserError(f"{annotations.path}: two categories have one name, by which detectors are matched: rename one")
    evaluators = [CocoEvaluator(annotations) for _ in range(1 + len(fusion.detectors))]
    foreign: Counter[str] = Counter()
    for record in progress(annotations.images, "evaluating", unit="image"):
        image = read_record(record)
        try:
            found = fusion.predict(image)
        except UserError as error:
            raise UserError(f"{record.path}: {error}") from error
        foreign.update(name for name in found.names if name not in labels)
        for evaluator, own in zip(evaluators, [found, *found.members], strict=True):
            known = own[[name in labels for name in own.names]]
            evaluator.add(record.id, known.boxes, known.scores, [labels[name] for name in known.names])
    _say_what_differs(fusion, annotations, foreign)
    return _evaluation(evaluators, len(fusion.detectors) == 1, rules, World())


def _say_what_differs(fusion: Fusion, annotations: CocoAnnotations, foreign: Counter[str]) -> None:
    lacking = [name for name in annotations.names if name not in fusion.names]
    if len(lacking) == len(annotations.names):
        raise UserError(
            f"{annotations.path}: its classes ({named(annotations.names)}) are none of the detectors' "
            f"({named(fusion.names) or 'which found nothing'}): rename them"
        )
    if foreign:
        listed = named([name for name, _ in foreign.most_common()])
        print(f"note: {foreign.total()} detections of classes that the ground truth does not list ({listed}) left out")
    if lacking:
        classes = f"{counted(len(lacking), 'class', 'classes')} of the ground truth"
        print(f"note: no detector has or found {classes} ({named(lacking)})")


def _evaluation(evaluators: list[CocoEvaluator], alone: bool, rules: Rules, world: World) -> Evaluation:
    """What evaluators hold: the fused boxes, then each member's; ``alone``: there is one member, with final boxes."""
    if alone:
        evaluators[1] = evaluators[0]

    def metrics() -> dict[str, Any]:
        fused = evaluators[0].metrics(rules)
        by_member = [fused] if alone else [evaluator.metrics(rules) for evaluator in evaluators[1:]]
        return fused | {"members": [{name: own[name] for name in METRICS} for own in by_member]}

    fused, *members = [evaluator.results() for evaluator in evaluators]
    return Evaluation(world.broadcast_from_main(metrics), fused, members)
