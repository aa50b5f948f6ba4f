"""A detector as the service runs it: from the bytes of images to what is found in them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from detection.boxes import ClassRules, find_classes
from detection.detections import Detections
from detection.detector import Detector, Seen
from detection.ensembles import Fusion
from detection.prediction_settings import PostprocessSettings
from divdet.engine.errors import UserError
from divdet.engine.uploads import decode_upload

_NAME = "the upload"  # in messages


class Wanted(NamedTuple):
    """What a request asks for.

    Attributes:
        score_threshold: lowest score.
        labels: of the classes to find; None: all.
        rules: both, as ``Detector.find`` takes them.
    """

    score_threshold: float
    labels: tuple[int, ...] | None
    rules: ClassRules


class Found(NamedTuple):
    """What was found in an image of ``size`` (width, height)."""

    detections: Detections
    size: tuple[int, int]


class Runner:
    """Runs a detector on images that requests bring.

    Images share forward passes where the detector sees each once and whole. With tiles or other views, and in a fusion
    of several detectors, they come one after the other; then each is decoded when its turn comes, since memory would
    not hold a queue of whole photos.

    Attributes:
        detector: as ``divdet detect`` loads it.
        names, ids: of all its classes, by label.
        labels: of the classes that are found.
        shared: whether images share forward passes.
    """

    def __init__(
        self,
        detector: Detector | Fusion,
        settings: PostprocessSettings,
        views: dict[str, Any] | None = None,
        max_pixels: int = 2**31,
        max_batch: int = 8,
        compiled: bool = False,
    ) -> None:
        """Takes a detector.

        Args:
            detector: what runs.
            settings: the detector's; for a fusion, whose detectors have their own, those that all of them follow.
            views: arguments of ``Detector.predict`` that say how images are seen; None: once and whole.
            max_pixels: of an image.
            max_batch: most inputs of the network per forward pass.
            compiled: whether the network is compiled, or captured, for each size of batch. Then batches are filled up
                to a power of 2, or to ``max_batch``, by copies of an image.
        """
        self.detector, self.settings = detector, settings
        self.views = views and views | {"batch_size": max_batch}
        self.shared = isinstance(detector, Detector) and not views
        self.max_pixels, self.max_batch = max_pixels, max_batch
        self.sizes = [*(2**power for power in range(11) if 2**power < max_batch), max_batch] if compiled else []
        self.names, self.ids = detector.names, detector.category_ids
        named = settings.classes
        self.labels = list(range(len(self.names))) if named is None else find_classes(named, self.names, self.ids)
        several = getattr(detector, "detectors", [detector])
        self._orient = any(getattr(one, "orientation", "auto") != "stored" for one in several)

    def wanted(self, score_threshold: float, classes: str | None = None) -> Wanted:
        """What a request's parameters mean.

        Args:
            score_threshold: lowest score, 0 to 1.
            classes: names or category ids, separated by commas, of those that the service finds; None: all of these.

        Raises:
            UserError: for a class that is not found here.
        """
        labels, settings = None, self.settings
        if classes is not None:
            labels = tuple(find_classes(classes, self.names, self.ids))
            if unknown := [self.names[label] for label in labels if label not in self.labels]:
                raise UserError(f"classes: this service was started without {', '.join(unknown)}")
            settings = replace(settings, classes=[self.names[label] for label in labels])
        return Wanted(score_threshold, labels, ClassRules.of(settings, self.names, self.ids, score_threshold))

    def prepare(self, data: bytes) -> Seen | bytes:
        """What threads can do of the work on an encoded image; raises UserError where it cannot be decoded."""
        return self.detector.see(self._decode(data)) if self.shared else data

    def run(self, images: Sequence[Seen | bytes], wanted: Sequence[Wanted]) -> list[Found]:
        """What is found in images that ``prepare`` made: by one forward pass where they are ``shared``."""
        if self.shared:
            size = next((size for size in self.sizes if size >= len(images)), len(images))
            blank = size - len(images)
            rules = [one.rules for one in (*wanted, *wanted[:1] * blank)]
            found = self.detector.find([*images, *images[:1] * blank], rules)
            return [Found(one, image.size) for one, image in zip(found, images, strict=False)]
        return [self._alone(data, one) for data, one in zip(images, wanted, strict=True)]

    def warm_up(self) -> None:
        """Runs the network, so that no request waits for what is compiled at first."""
        image, wanted = np.zeros((64, 64, 3), np.uint8), self.wanted(0.0)
        if not self.shared:
            self.detector.predict(image, **self.views or {})
            return
        for count in self.sizes or (1, self.max_batch):
            self.run([self.detector.see(image)] * count, [wanted] * count)

    def _decode(self, data: bytes) -> np.ndarray:
        return decode_upload(data, _NAME, self.max_pixels, self._orient)

    def _alone(self, data: bytes, wanted: Wanted) -> Found:
        image = self._decode(data)
        size = image.shape[1::-1]
        if self.views:
            classes = None if wanted.labels is None else [self.names[label] for label in wanted.labels]
            return Found(self.detector.predict(image, wanted.score_threshold, classes=classes, **self.views), size)
        found = self.detector.predict(image, wanted.score_threshold)
        if wanted.labels is not None:
            members = tuple(_of_classes(member, wanted.labels) for member in found.members)
            found = replace(_of_classes(found, wanted.labels), members=members)
        return Found(found, size)


def _of_classes(found: Detections, labels: Sequence[int]) -> Detections:
    return found[np.isin(found.labels.numpy(), labels)]
