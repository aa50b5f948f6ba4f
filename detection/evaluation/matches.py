"""Which objects detections find, one by one: where the COCO numbers come from, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from detection.data.annotations import CocoAnnotations
from detection.data.coco_results import Results
from detection.evaluation.coco_metrics import COCO_RULES, Rules, evaluation_of

IOU = 0.5  # from which a box finds an object
_SHOWN = 0.3  # threshold where no detection is right


@dataclass
class Matches:
    """What n detections find of m annotated objects at IoU 0.5, matched as COCO does.

    Whether an object is found at a score threshold is whether its detection's score reaches it: detections with lower
    scores never take an object from others.

    Attributes:
        object: int64 [n], row of the annotations' ``truth``, or -1.
        false: bool [n]. A detection may be neither: in a crowd, or beyond ``max_dets`` of an image and class.
        detection: int64 [m], row of the results, or -1.
        threshold: the score from which on F1, over all classes together, is best.
        by_class: float64 [C, 2], AP and AR (of ``max_dets`` detections an image) of each class; NaN without objects.
        evaluation: hotcoco's ``COCOeval``, accumulated.
    """

    object: np.ndarray
    false: np.ndarray
    detection: np.ndarray
    threshold: float
    by_class: np.ndarray
    evaluation: Any = field(repr=False)

    def ranked(self, scores: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Falling scores of those of the detections ``rows`` that count, and how many are right so far."""
        rows = rows[(self.object[rows] >= 0) | self.false[rows]]
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        return scores[rows], np.cumsum(self.object[rows] >= 0)


def match(annotations: CocoAnnotations, results: Results, rules: Rules = COCO_RULES) -> Matches:
    """Matches the detections of all images."""
    evaluation = evaluation_of(annotations, results, rules)
    evaluation.evaluate()
    evaluation.accumulate()
    parts = (
        evaluation.eval["precision"][..., 0, -1].reshape(-1, len(annotations.names)),
        evaluation.eval["recall"][..., 0, -1],
    )
    by_class = np.stack([np.where(part[0] > -1, part.mean(0), np.nan) for part in parts], 1)
    found = evaluation.image_diagnostics(iou_thr=IOU)
    objects, false = np.full(len(results), -1), np.zeros(len(results), bool)
    detections = np.full(len(annotations.truth.image), -1)
    false[[row - 1 for row, status in found["dt_status"].items() if status == "fp"]] = True
    # Ids count from 1 in the order of the rows
    pairs = np.array(list(found["dt_match"].items()), np.int64).reshape(-1, 2) - 1
    pairs = pairs[~annotations.truth.crowd[pairs[:, 1]]]
    objects[pairs[:, 0]], detections[pairs[:, 1]] = pairs[:, 1], pairs[:, 0]
    counted = int((~annotations.truth.crowd).sum())
    matches = Matches(objects, false, detections, _SHOWN, by_class, evaluation)
    scores, right = matches.ranked(results.score, np.arange(len(results)))
    if count := best_count(scores, right, counted):
        matches.threshold = float(scores[count - 1])
    return matches


def best_count(scores: np.ndarray, right: np.ndarray, objects: int) -> int:
    """How many of the best detections have the highest F1; 0 where none is right. Arguments as ``Matches.ranked``."""
    if not len(right) or not right[-1]:
        return 0
    last = np.append(np.diff(scores) != 0, True)  # of those with the same score
    return int(np.argmax(np.where(last, 2 * right / (np.arange(1, len(right) + 1) + objects), -1))) + 1


@dataclass
class Outcome:
    """What detections with a score from ``threshold`` on find.

    Attributes:
        found: bool [m] of the annotated objects; crowds never are.
        false: bool [n] of the detections.
        counts: int64 [images, 3]: objects found, objects missed, false boxes.
    """

    threshold: float
    found: np.ndarray
    false: np.ndarray
    counts: np.ndarray

    def errors(self) -> np.ndarray:
        """Objects missed and false boxes of each image, int64 [images]."""
        return self.counts[:, 1:].sum(1)

    def f1(self) -> np.ndarray:
        """Of each image, float64 [images]; NaN without objects and false boxes."""
        found = 2 * self.counts[:, 0]
        with np.errstate(invalid="ignore"):
            return found / (found + self.errors())


def outcome(annotations: CocoAnnotations, results: Results, matches: Matches) -> Outcome:
    """Objects and detections at the score of the best F1, ``matches.threshold``."""
    truth, images = annotations.truth, len(annotations.images)
    shown = results.score >= matches.threshold
    found = (matches.detection >= 0) & np.append(shown, False)[matches.detection]
    false = matches.false & shown
    parts = (truth.image[found], truth.image[~found & ~truth.crowd], results.image[false])
    counts = np.stack([np.bincount(part, minlength=images) for part in parts], 1)
    return Outcome(matches.threshold, found, false, counts)


@dataclass
class Agreement:
    """How far S members find the same objects, crowds apart.

    Attributes:
        found: int64 [S + 1], objects that 0 … S members found.
        fused: int64 [S + 1], those of them that the fused boxes found.
        ious: float64 [k], of the boxes of two members on an object that both found.
    """

    found: np.ndarray
    fused: np.ndarray
    ious: np.ndarray


def agreement(
    annotations: CocoAnnotations,
    members: Sequence[Results],
    matches: Sequence[Matches],
    outcomes: Sequence[Outcome],
    fused: Outcome,
) -> Agreement:
    """Compares members, each at the threshold of its best F1."""
    counted = ~annotations.truth.crowd
    votes = np.sum([one.found for one in outcomes], axis=0)
    size = len(members) + 1
    ious = [np.zeros(0)]
    for first, second in combinations(range(len(members)), 2):
        both = outcomes[first].found & outcomes[second].found
        boxes = (members[one].bbox[matches[one].detection[both]] for one in (first, second))
        ious.append(_paired_iou(*boxes))
    return Agreement(
        np.bincount(votes[counted], minlength=size),
        np.bincount(votes[counted & fused.found], minlength=size),
        np.concatenate(ious),
    )


def _paired_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of each row, x y width height, with the other's: [n]."""
    corner = np.maximum(first[:, :2], second[:, :2])
    inside = np.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:]) - corner
    shared = inside.clip(0).prod(1)
    return shared / (first[:, 2:].prod(1) + second[:, 2:].prod(1) - shared)
