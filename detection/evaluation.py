"""The COCO numbers of detections, computed by faster-coco-eval."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import ArrayLike

from detection.annotations import CocoAnnotations

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
BOX_DECIMALS = 2  # of pixels: COCO's own precision
SCORE_DECIMALS = 6


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
        self._ids = dict.fromkeys(image.id for image in annotations.images)  # in the file's order

    def add(self, image_id: int, boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike) -> None:
        """The detections of one image: boxes [n, 4] xyxy in pixels, scores [n], 0-based labels [n].

        An image added again replaces what was there (distributed samplers repeat images). Raises KeyError for an
        image that the annotations do not list, ValueError for detections that are not finite or of unknown label.
        """
        if image_id not in self._ids:
            raise KeyError(f"image id {image_id} is not in {self.annotations.path}")
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        scores = np.asarray(scores, np.float64).reshape(-1)
        labels = np.asarray(labels, np.int64).reshape(-1)
        if not len(boxes) == len(scores) == len(labels):
            raise ValueError(f"image id {image_id}: {len(boxes)} boxes, {len(scores)} scores, {len(labels)} labels")
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError(f"image id {image_id}: boxes or scores are not finite")
        if ((labels < 0) | (labels >= len(self.annotations.names))).any():
            raise ValueError(f"image id {image_id}: labels outside 0 to {len(self.annotations.names) - 1}")
        sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        self.detections[image_id] = sides.round(BOX_DECIMALS), scores.round(SCORE_DECIMALS), labels

    def results(self) -> list[dict[str, Any]]:
        """The detections in COCO's results format, ready for ``json.dump``."""
        category_ids = self.annotations.category_ids
        return [
            {"image_id": image_id, "category_id": category_ids[label], "bbox": bbox, "score": score}
            for image_id in self._ids
            if image_id in self.detections
            for bbox, score, label in zip(*(values.tolist() for values in self.detections[image_id]), strict=True)
        ]

    def metrics(self) -> dict[str, Any]:
        """The COCO numbers of what was added: see ``evaluate``."""
        return evaluate(self.annotations, self.results())


def evaluate(annotations: CocoAnnotations, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Score detections in COCO's results format against all images of ``annotations``, empty ones and crowds included.

    Returns the 12 numbers of ``METRICS`` in 0…1, or -1 where the ground truth has no object (of that size) as in the
    COCO API; ``per_class``: AP by category name, None for categories without ground truth; ``images``: how many were
    scored. No detections at all score 0.
    """
    # It adds keys to every annotation and detection that it is given.
    entries = [dict(entry) for entry in annotations.dataset["annotations"]]
    truth = COCO({**annotations.dataset, "annotations": entries})
    evaluation = COCOeval_faster(truth, truth.loadRes([dict(entry) for entry in results]), "bbox")
    evaluation.run()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    per_class = {}
    for name, values in zip(_unique_names(annotations), precision.transpose(2, 0, 1), strict=True):
        found = values[values > -1]
        per_class[name] = float(found.mean()) if found.size else None
    return {
        **dict(zip(METRICS, (float(value) for value in evaluation.stats[:12]), strict=True)),
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
