"""The COCO numbers of detections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from detection.data.coco import CocoAnnotations
from detection.data.coco_results import Results
from detection.detections import rounded

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
AREAS = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))  # square pixels: all, small, medium, large
LIMITS = (1, 10, 100)  # detections of one category in one image


class CocoEvaluator:
    """Collects detections image by image; every image of ``annotations`` is scored, whether added or not.

    Boxes and scores are rounded when they are added, so that ``metrics`` and a later scoring of the saved
    ``results`` give the very same numbers.

    Attributes:
        detections: boxes (COCO's xywh), scores and labels by image id.
    """

    def __init__(self, annotations: CocoAnnotations) -> None:
        self.annotations = annotations
        self.detections: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._positions = {image.id: position for position, image in enumerate(annotations.images)}

    def add(self, image_id: int, boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike) -> None:
        """The detections of one image: boxes [n, 4] xyxy in pixels, scores [n], 0-based labels [n].

        An image added again replaces what was there (distributed samplers repeat images). Raises KeyError for an
        image that the annotations do not list, ValueError for detections that are not finite or of unknown label.
        """
        if image_id not in self._positions:
            raise KeyError(f"image id {image_id} is not in {self.annotations.path}")
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        scores = np.asarray(scores, np.float64).reshape(-1)
        labels = np.array(labels, np.int64).reshape(-1)  # a copy: a view would keep its whole batch
        if not len(boxes) == len(scores) == len(labels):
            raise ValueError(f"image id {image_id}: {len(boxes)} boxes, {len(scores)} scores, {len(labels)} labels")
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError(f"image id {image_id}: boxes or scores are not finite")
        if ((labels < 0) | (labels >= len(self.annotations.names))).any():
            raise ValueError(f"image id {image_id}: labels outside 0 to {len(self.annotations.names) - 1}")
        self.detections[image_id] = *rounded(boxes, scores), labels

    def results(self) -> Results:
        """The detections, in the order of the annotations' images."""
        order = [image_id for image_id in self._positions if image_id in self.detections]
        columns = [self.detections[image_id] for image_id in order]
        counts = [len(scores) for _, scores, _ in columns]
        return Results(
            np.repeat(np.array([self._positions[image_id] for image_id in order], np.int64), counts),
            np.concatenate([np.zeros(0, np.int64), *(labels for _, _, labels in columns)]),
            np.concatenate([np.zeros((0, 4)), *(sides for sides, _, _ in columns)]),
            np.concatenate([np.zeros(0), *(scores for _, scores, _ in columns)]),
        )

    def metrics(self) -> dict[str, Any]:
        """The COCO numbers of what was added: see ``evaluate``."""
        return evaluate(self.annotations, self.results())


def evaluate(annotations: CocoAnnotations, results: Results) -> dict[str, Any]:
    """Score detections against all images of ``annotations``, empty ones and crowds included.

    Returns the 12 numbers of ``METRICS`` in 0…1, those of pycocotools bit for bit (but that an object of id 0 can be
    found: pycocotools takes 0 for none), or -1 where the ground truth has no object (of that size); ``per_class``: AP
    by category name, None for categories without ground truth; ``images``: how many were scored. No detections at all
    score 0.
    """
    precision, recall = _curves(annotations, results)
    numbers = [_mean(values) for values in _twelve(precision, recall)]
    per_class = {}
    for name, values in zip(_unique_names(annotations), precision[..., 0, -1].transpose(2, 0, 1), strict=True):
        per_class[name] = _mean(values) if (values > -1).any() else None
    return {
        **dict(zip(METRICS, numbers, strict=True)),
        "per_class": per_class,
        "images": len(annotations.images),
    }


def format_metrics(metrics: dict[str, Any]) -> str:
    """The 12 numbers as 12 lines in the form that COCO's users know."""
    rows = [("all", 100), ("all", 100), ("all", 100), ("small", 100), ("medium", 100), ("large", 100)]
    rows += [("all", 1), ("all", 10), ("all", 100), ("small", 100), ("medium", 100), ("large", 100)]
    lines = []
    for key, (area, detections) in zip(METRICS, rows, strict=True):
        kind = "Average Precision  (AP)" if key.startswith("AP") else "Average Recall     (AR)"
        iou = {"AP50": "0.50", "AP75": "0.75"}.get(key, "0.50:0.95")
        lines.append(f" {kind} @[ IoU={iou:<9} | area={area:>6} | maxDets={detections:>3} ] = {metrics[key]:0.3f}")
    return "\n".join(lines)


def _unique_names(annotations: CocoAnnotations) -> list[str]:
    """Category names, with the id behind those that stand more than once."""
    count = Counter(annotations.names)
    return [
        name if count[name] == 1 else f"{name} (id {category_id})"
        for name, category_id in zip(annotations.names, annotations.category_ids, strict=True)
    ]


def _curves(annotations: CocoAnnotations, results: Results) -> tuple[np.ndarray, np.ndarray]:
    """Precision [T, R, K, A, M] and recall [T, K, A, M] by IoU, recall, category, area range and limit."""
    from detection.kernels.coco import precision_and_recall  # here, because numba takes long to import

    truth = annotations.truth
    # Images come in the order of their ids, which decides between equal scores.
    rank = np.argsort(np.argsort(np.array([image.id for image in annotations.images])))
    found_keys = results.label * len(rank) + rank[results.image]
    truth_keys = truth.label * len(rank) + rank[truth.image]
    rows = np.lexsort((-results.score, found_keys))
    groups = np.union1d(found_keys, truth_keys)  # a group is one category in one image
    found_keys = found_keys[rows]
    kept = np.arange(len(rows)) - np.searchsorted(found_keys, found_keys) < LIMITS[-1]
    rows, found_keys = rows[kept], found_keys[kept]
    truth_rows = np.argsort(truth_keys, kind="stable")
    scores = results.score[rows]
    edges = np.append(groups, len(rank) * len(annotations.names))
    return precision_and_recall(
        results.bbox[rows],
        truth.bbox[truth_rows],
        truth.area[truth_rows],
        truth.crowd[truth_rows] == 1,
        np.searchsorted(found_keys, edges),
        np.searchsorted(truth_keys[truth_rows], edges),
        np.searchsorted(groups, np.arange(len(annotations.names) + 1) * len(rank)),
        np.lexsort((-scores, results.label[rows])),
        np.array(AREAS),
        np.linspace(0.5, 0.95, 10),
        np.linspace(0, 1, 101),
        np.array(LIMITS),
    )


def _twelve(precision: np.ndarray, recall: np.ndarray) -> Iterator[np.ndarray]:
    """The parts of the curves that the numbers of ``METRICS`` average."""
    yield from (precision[..., 0, -1], precision[0, ..., 0, -1], precision[5, ..., 0, -1])
    yield from (precision[..., area, -1] for area in (1, 2, 3))
    yield from (recall[..., 0, limit] for limit in range(len(LIMITS)))
    yield from (recall[..., area, -1] for area in (1, 2, 3))


def _mean(values: np.ndarray) -> float:
    """Of what is defined, -1 where nothing is."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0
