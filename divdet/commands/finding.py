"""What divdet detect does alike on photos and videos."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from detection.boxes import ClassRules
from detection.detections import Detections, rounded
from detection.detector import Detector, Seen
from detection.ensembles import Fusion
from detection.outputs import draw
from detection.prediction_settings import ViewSettings
from divdet.commands.fused_checkpoints import checkpoints_of, load_fusion
from divdet.commands.settings import Detect
from divdet.engine.limits import cores


def load_detector(config: Detect) -> Detector | Fusion:
    """The detector of a checkpoint, or the fusion of several."""
    if len(checkpoints_of(config)) > 1:
        return load_fusion(config)
    detector = Detector.load(config.checkpoint, config.device, config.postprocess, config)
    if detector.rules.kept is not None:
        print(f"classes: {detector.rules.describe(detector.names)}")
    return detector


class Finder:
    """Runs a detector as the settings say, on batches of images that threads have prepared."""

    def __init__(self, detector: Detector | Fusion, config: Detect) -> None:
        self.detector, self.config = detector, config
        self.by_parts = isinstance(detector, Detector) and not config.several
        if self.by_parts:
            settings = detector.settings
            self.rules = ClassRules.of(settings, detector.names, detector.category_ids, config.score_threshold)

    def prepare(self, image: np.ndarray) -> Seen | None:
        """What a thread can do of the work on an image, uint8 RGB ``[H, W, 3]``."""
        return self.detector.see(image) if self.by_parts else None

    def find(self, images: Sequence[np.ndarray | None], seen: Sequence[Seen | None]) -> list[Detections]:
        """What is found in each image; without ``by_parts`` the images themselves are needed."""
        if self.by_parts:
            return self.detector.find(seen, self.rules) if seen else []
        how = views_of(self.config, self.detector)
        how |= {"batch_size": self.config.batch_size} if how else {}
        return self.detector.predict(images, self.config.score_threshold, **how)


def views_of(config: Detect, detector: Detector | Fusion) -> dict[str, Any]:
    """The arguments of ``predict`` that say how images are seen; a fusion's detectors get one whole image at a time."""
    if isinstance(detector, Fusion):
        return {}
    return {one.name: getattr(config, one.name) for one in fields(ViewSettings)}


def threads_of(config: Detect) -> int:
    """How many threads read and write."""
    return min(8, cores()) if config.workers is None else config.workers


def picture_of(image: np.ndarray, found: Detections, names: Sequence[str], config: Detect) -> np.ndarray:
    """The picture of an image that ``--show`` asks for."""
    return draw(image, found, names, config.score_threshold if config.show == "members" else None)


def objects_of(found: Detections, names: Sequence[str], category_ids: Sequence[int | None]) -> list[dict[str, Any]]:
    """The objects of an image as ``result_files`` has them, without classes whose id is None."""
    boxes, scores = (values.tolist() for values in rounded(found.boxes.numpy(), found.scores.numpy()))
    return [
        {"category_id": category_ids[label], "category": names[label], "bbox": box, "score": score}
        for box, score, label in zip(boxes, scores, found.labels.tolist(), strict=True)
        if category_ids[label] is not None
    ]
