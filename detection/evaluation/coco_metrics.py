"""The COCO numbers of detections, computed by hotcoco; pycocotools verifies them."""

from __future__ import annotations

import contextlib
import io
import os
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from detection.data.annotations import CocoAnnotations
from detection.data.coco_results import Results
from detection.detections import rounded
from divdet.engine.errors import UserError

COCO_MAX_DETS, COCO_SIZES = 100, (32.0, 96.0)
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class Rules:
    """What is counted; others' numbers are by the defaults, COCO's.

    Attributes:
        max_dets: detections of an image and class, the best first; at least 11.
        sizes: objects with an area below the square of the first are small, those from the square of the second on are
            large; sides in pixels.
    """

    max_dets: int = COCO_MAX_DETS
    sizes: tuple[float, float] = COCO_SIZES

    @property
    def are_cocos(self) -> bool:
        return self == Rules()

    def areas(self) -> list[list[float]]:
        """Ranges in square pixels: all, small, medium, large."""
        small, large = (side**2 for side in self.sizes)
        return [[0, 1e10], [0, small], [small, large], [large, 1e10]]


COCO_RULES = Rules()


class CocoEvaluator:
    """Collects detections image by image; every image of ``annotations`` is scored, whether added or not.

    Boxes and scores are rounded when they are added, so that the saved results give the very same numbers.

    Attributes:
        detections: by image id.
    """

    def __init__(self, annotations: CocoAnnotations) -> None:
        self.annotations = annotations
        self.detections: dict[int, Results] = {}
        self._indices = {image.id: index for index, image in enumerate(annotations.images)}

    def add(self, image_id: int, boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike) -> None:
        """Add the detections of one image; they replace earlier ones (distributed samplers repeat images).

        Args:
            image_id: as in the annotations; KeyError for others.
            boxes: [n, 4] xyxy in pixels. ValueError for values that are not finite, here and in scores.
            scores: [n].
            labels: [n], 0-based. ValueError for unknown ones, and for another n.
        """
        if image_id not in self._indices:
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
        index = np.full(len(labels), self._indices[image_id])
        self.detections[image_id] = Results(index, labels, *rounded(boxes, scores))

    def results(self) -> Results:
        """The detections, in the order of the annotations' images; of the classes that the annotations list."""
        nothing = Results(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
        parts = [nothing, *(self.detections[i] for i in self._indices if i in self.detections)]
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        found = Results(*map(np.concatenate, columns))
        listed = np.array([number is not None for number in self.annotations.category_ids], bool)[found.label]
        return found if listed.all() else Results(*(column[listed] for column in vars(found).values()))

    def metrics(self, rules: Rules = COCO_RULES) -> dict[str, Any]:
        """The COCO numbers of what was added: see ``evaluate``."""
        return evaluate(self.annotations, self.results(), rules)


def evaluate(annotations: CocoAnnotations, results: Results, rules: Rules = COCO_RULES) -> dict[str, Any]:
    """Score detections on all images of ``annotations``, empty ones and crowds included.

    Returns:
        The 12 numbers of ``METRICS``, 0 to 1, equal to pycocotools' bit for bit; -1 where the ground truth has no
        object (of that size), 0 without detections. ``per_class``: AP by category name, None for a category without
        ground truth. ``images``: how many were scored. ``rules``: its arguments. AR100 is of ``max_dets`` detections.

    Raises:
        RuntimeError: in a process that was forked after an evaluation, where hotcoco would wait forever.
    """
    evaluation = evaluation_of(annotations, results, rules)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summary_lines()  # as summarize(), without printing
    precision = evaluation.eval["precision"][..., 0, -1]  # [IoU, recall, category]: all areas, max_dets
    per_class = {}
    for label, name in enumerate(unique_names(annotations)):
        defined = precision[..., label][precision[..., label] > -1]
        per_class[name] = float(defined.mean()) if defined.size else None
    numbers = dict(zip(METRICS, evaluation.stats.tolist(), strict=True))
    counted = {"images": len(annotations.images), "rules": {"max_dets": rules.max_dets, "sizes": list(rules.sizes)}}
    return {**numbers, "per_class": per_class} | counted


def evaluation_of(annotations: CocoAnnotations, results: Results, rules: Rules = COCO_RULES) -> Any:
    """hotcoco's ``COCOeval`` of detections, before ``evaluate()``; ids are the rows of either, from 1."""
    from hotcoco import COCO, COCOeval

    if _first_process() != os.getpid():
        raise RuntimeError("evaluate() was called before this process was forked; use multiprocessing's spawn method")
    images, categories, (image_ids, category_ids, boxes, area, crowd), rows = _dense(annotations, results)
    truth = COCO.from_arrays(images, categories, image_ids, category_ids, boxes, area=area, iscrowd=crowd)
    evaluation = COCOeval(truth, truth.load_res(rows), "bbox")
    if not rules.are_cocos:
        params = evaluation.params
        params.max_dets, params.area_rng = [1, 10, rules.max_dets], rules.areas()
        evaluation.params = params
    return evaluation


def verify(annotations: CocoAnnotations, results: Results, metrics: dict[str, Any], rules: Rules = COCO_RULES) -> None:
    """Score once more by pycocotools; raise UserError where one of the 12 numbers of ``metrics`` is another."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images, categories, columns, rows = _dense(annotations, results)
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    values = zip(*(column.tolist() for column in (np.arange(1, len(columns[0]) + 1), *columns)), strict=True)
    entries = [dict(zip(keys, entry, strict=True)) for entry in values]
    truth = COCO()
    truth.dataset = {"images": images, "categories": categories, "annotations": entries}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(rows) if len(rows) else COCO(), "bbox")
        evaluation.params.areaRng = rules.areas()
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    pairs = [(name, metrics[name], float(value)) for name, value in zip(METRICS, evaluation.stats, strict=True)]
    differing = [f"{name} is {own!r} and {other!r} by pycocotools" for name, own, other in pairs if own != other]
    if differing:
        raise UserError(f"{annotations.path}: not verified: {'; '.join(differing)}")


def format_metrics(metrics: dict[str, Any]) -> str:
    """The 12 numbers as the 12 lines that pycocotools prints."""
    most = metrics["rules"]["max_dets"]
    rows = [("all", most), ("all", most), ("all", most), ("small", most), ("medium", most), ("large", most)]
    rows += [("all", 1), ("all", 10), ("all", most), ("small", most), ("medium", most), ("large", most)]
    lines = []
    for key, (area, detections) in zip(METRICS, rows, strict=True):
        kind = "Average Precision  (AP)" if key.startswith("AP") else "Average Recall     (AR)"
        iou = {"AP50": "0.50", "AP75": "0.75"}.get(key, "0.50:0.95")
        lines.append(f" {kind} @[ IoU={iou:<9} | area={area:>6} | maxDets={detections:>3} ] = {metrics[key]:0.3f}")
    return "\n".join(lines)


def unique_names(annotations: CocoAnnotations) -> list[str]:
    """Category names, followed by the id where several categories have the same."""
    count = Counter(annotations.names)
    return [
        name if count[name] == 1 else f"{name} (id {category_id})"
        for name, category_id in zip(annotations.names, annotations.category_ids, strict=True)
    ]


def _dense(
    annotations: CocoAnnotations, results: Results
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], tuple[np.ndarray, ...], np.ndarray]:
    """Renumber images, categories and annotations from 1.

    Any evaluator can hold these ids. Both keep the ids of arrays as floats, and for pycocotools an annotation of id 0
    is none. Images keep the order of their own ids, which decides between equal scores.

    Returns:
        COCO's images and categories; image id, category id, bbox, area and iscrowd of the annotations, in columns;
        detections [n, 7]: image id, x, y, width, height, score, category id.
    """
    order = np.argsort([image.id for image in annotations.images])
    image_ids = np.empty(len(order), np.int64)
    image_ids[order] = np.arange(1, len(order) + 1)
    truth = annotations.truth
    images = [{"id": number} for number in range(1, len(order) + 1)]
    categories = [{"id": number, "name": str(number)} for number in range(1, len(annotations.names) + 1)]
    columns = (image_ids[truth.image], truth.label + 1, truth.bbox, truth.area, truth.crowd)
    rows = np.column_stack([image_ids[results.image], results.bbox, results.score, results.label + 1])
    return images, categories, columns, rows


@cache
def _first_process() -> int:
    """The process of the first evaluation."""
    return os.getpid()
