"""What the network makes of an image, kept so that other settings need no other run of it."""

from __future__ import annotations

import time
from copy import copy
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from detection.boxes import ClassRules
from detection.detections import Detections
from detection.detector import Detector, Seen
from detection.prediction_settings import PostprocessSettings

_SIDES = (960, 1600)  # pixels of the longer side of the picture that is drawn on, least and most


@dataclass(frozen=True)
class Outputs:
    """The network's outputs for an image.

    Attributes:
        picture: the image at a size for screens: uint8 RGB [H, W, 3].
        scale: [4], what multiplies boxes in the image's pixels to be drawn on ``picture``.
        seen: the image as the network sees it.
        raw: what ``Detector.network`` returned for it.
        resize_seconds, network_seconds: how long each took.
        read_seconds: how long reading and decoding took.
    """

    picture: np.ndarray
    scale: np.ndarray
    seen: Seen
    raw: tuple[Tensor, ...]
    resize_seconds: float
    network_seconds: float
    read_seconds: float = 0

    @property
    def bytes(self) -> int:
        """Memory that is kept."""
        return self.picture.nbytes + self.seen.input.nbytes + sum(part.nbytes for part in self.raw)


@torch.inference_mode()
def run(detector: Detector, image: np.ndarray) -> Outputs:
    """Runs a detector's network on an image, uint8 RGB ``[H, W, 3]``."""
    start = time.perf_counter()
    seen = detector.see(image)
    resized = time.perf_counter()
    inputs = torch.from_numpy(np.stack([seen.input])).to(detector.device)
    raw = tuple(part.clone() for part in detector.network(inputs))  # runtimes may write the next outputs into these
    if detector.device.type == "cuda":
        torch.cuda.synchronize(detector.device)
    end = time.perf_counter()
    picture, scale = _for_screens(image)
    return Outputs(picture, scale, seen, raw, resized - start, end - resized)


def find(
    detector: Detector, outputs: Outputs, settings: PostprocessSettings, score_threshold: float
) -> tuple[Detections, float]:
    """What ``Detector.predict`` finds with these settings, and the seconds from the network's outputs to it.

    Raises:
        UserError: as ``predict`` does for outputs that are not finite.
    """
    start = time.perf_counter()
    replay = copy(detector)  # the same model with another network and other settings
    replay.settings, replay.network = settings, lambda inputs: outputs.raw
    rules = ClassRules.of(settings, detector.names, detector.category_ids, score_threshold)
    found = replay.find([outputs.seen], rules)[0]
    return found, time.perf_counter() - start


def _for_screens(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image at a size for screens, and what multiplies its boxes: [4]. Text on a small image would be coarse."""
    longer = max(image.shape[:2])
    scale = min(max(longer, _SIDES[0]), _SIDES[1]) / longer
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    picture = image.copy() if scale == 1 else cv2.resize(image, size, interpolation=way)
    return picture, np.tile(np.array(size) / image.shape[1::-1], 2)
