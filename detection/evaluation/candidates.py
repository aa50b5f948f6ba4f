"""What the members find before suppression, kept so that other settings need no other run of the network."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import torch

from detection.boxes import ClassRules
from detection.data.annotations import CocoAnnotations
from detection.data.coco_results import Results
from detection.data.dataset import EvaluationImages
from detection.detections import rounded
from detection.detector import Detector
from detection.postprocess import fuse_columns, head_boxes
from detection.prediction_settings import PostprocessSettings
from detection.preprocess import seen_share
from divdet.engine.errors import UserError
from divdet.engine.loading import Loader
from divdet.engine.progress import progress

_ALL = 2**31 - 1  # boxes of a member and image


@dataclass
class Candidates:
    """Boxes of S members on N images, image by image and in an image member by member, each by falling score.

    Attributes:
        boxes: [n, 4] corners as fractions of the input; float32, or float64 where suppression is to be computed so.
        scores: float32 [n].
        labels: int64 [n].
        counts: int64 [N, S].
        image: int64 [N], index into the annotations' images.
        sizes: float32 [N, 2], width and height in pixels.
        shares: float32 [N, 2], of the input that the image fills.
        names, ids: of the classes, by label.
        lowest: all scores above this are there.
        seconds: time spent on each part of ``results``, and on what is ``timed``.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    image: np.ndarray
    sizes: np.ndarray
    shares: np.ndarray
    names: list[str]
    ids: list[int]
    lowest: float
    seconds: Counter[str] = field(default_factory=Counter)

    def part(self, images: np.ndarray) -> Candidates:
        """Those of some images, bool [N]."""
        rows = images.repeat(self.counts.sum(1))
        own = {name: getattr(self, name)[rows] for name in ("boxes", "scores", "labels")}
        own |= {name: getattr(self, name)[images] for name in ("counts", "image", "sizes", "shares")}
        return replace(self, **own)

    def results(self, settings: PostprocessSettings) -> Results:
        """The detections that a detector with these settings finds; ``candidates_per_class`` is the candidates' own.

        Raises:
            ValueError: for a score threshold below ``lowest``.
        """
        if settings.score_threshold < self.lowest:
            raise ValueError(f"score_threshold is {settings.score_threshold}, but no score is below {self.lowest}")
        members = self.counts.shape[1]
        with self.timed("suppression"):
            limit = settings.max_per_member or 200 * members
            threshold = np.float32(settings.score_threshold)
            kept = _suppress(self, self.counts.ravel(), self.labels, threshold, settings.nms_iou, limit)
            boxes, scores, labels = (column[kept] for column in (self.boxes, self.scores, self.labels))
            pictures = np.arange(self.counts.size).repeat(self.counts.ravel())[kept]
            counts = np.bincount(pictures, minlength=self.counts.size).reshape(self.counts.shape)
        with self.timed("fusion" if members == 1 else settings.fusion_method):
            if members > 1:
                fused = fuse_columns(boxes.astype(np.float32), scores, labels, counts, settings)
                boxes, scores, labels = map(np.concatenate, zip(*fused, strict=True))
                totals = np.array([len(own) for _, own, _ in fused])
            else:
                totals = counts[:, 0]
        with self.timed("classes"):
            image = np.arange(len(totals)).repeat(totals)
            rules = ClassRules.of(settings, self.names, self.ids)
            kept = np.ones(len(scores), bool)
            if rules.kept is not None:
                kept &= rules.kept.numpy()[labels]
            if rules.thresholds is not None:
                kept &= scores >= rules.thresholds.numpy().astype(np.float32)[labels]
            boxes, scores, labels, image = (column[kept] for column in (boxes, scores, labels, image))
            if rules.agnostic_iou is not None:
                found = replace(self, boxes=boxes.astype(np.float64), scores=scores)
                totals = np.bincount(image, minlength=len(totals))
                kept = _suppress(found, totals, np.zeros_like(labels), np.float32(-1), rules.agnostic_iou, _ALL)
                boxes, scores, labels, image = (column[kept] for column in (boxes, scores, labels, image))
        with self.timed("boxes in pixels"):  # as ``to_pixels``
            boxes = boxes.astype(np.float32) / np.tile(self.shares, 2)[image]
            boxes = boxes.clip(0, 1) * np.tile(self.sizes, 2)[image]
            inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
            return Results(self.image[image[inside]], labels[inside], *rounded(boxes[inside], scores[inside]))

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Adds the time that a block takes to ``seconds``."""
        start = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - start


def _suppress(
    own: Candidates, counts: np.ndarray, labels: np.ndarray, threshold: np.float32, iou: float, limit: int
) -> np.ndarray:
    """Which rows NMS keeps, bool [n]; ``counts`` are the rows of each picture."""
    from detection.kernels import compiled, nms  # imported here, because numba takes long to import

    starts = np.concatenate(([0], counts.cumsum()))
    inputs = (starts, own.boxes, own.scores, labels, len(own.names), threshold, iou, limit)
    kept = np.zeros(len(own.scores), bool)
    compiled.in_threads(
        lambda first, end: nms.suppress(first, end, *inputs, kept), len(counts), torch.get_num_threads()
    )
    return kept


@torch.inference_mode()
def collect(
    detector: Detector, annotations: CocoAnnotations, lowest: float, batch_size: int, workers: int = 0
) -> Candidates:
    """Runs a detector's network once over all images and keeps each member's boxes with scores above ``lowest``.

    Raises:
        UserError: if the outputs are not finite.
    """
    settings = replace(detector.settings, score_threshold=lowest, nms_iou=1.0, max_per_member=_ALL)
    members, form = len(detector.model.members), detector.input
    found, sizes = [], []
    with Loader(EvaluationImages(annotations.images, form), batch_size, workers, detector.device) as loader:
        for inputs, widths, heights in progress(loader, "network", unit="batch"):
            outputs = detector.network(inputs.to(detector.device, non_blocking=True))
            try:
                by_member = head_boxes(detector.model, *outputs, settings)
            except UserError as error:
                raise UserError(f"{detector.source}: {error}" if detector.source else str(error)) from error
            found += chain.from_iterable(zip(*by_member, strict=True))
            sizes += zip(widths.tolist(), heights.tolist(), strict=True)
    boxes, scores, labels = (torch.cat(column).numpy() for column in zip(*found, strict=True))
    # ``member_boxes`` computes IoU in float32 only where it is compiled
    exact = detector.device.type != "cpu" or detector.model.default_boxes is None
    return Candidates(
        boxes.astype(np.float64) if exact else boxes,
        scores,
        labels,
        np.array([len(own.scores) for own in found], np.int64).reshape(-1, members),
        np.arange(len(sizes)),
        np.array(sizes, np.float32),
        np.array([seen_share(*size, form) for size in sizes], np.float32),
        detector.names,
        detector.category_ids,
        lowest,
    )
