"""What the COCO numbers are made of: classes, score thresholds, kinds of errors, calibration, doubtful labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from detection.data.annotations import CocoAnnotations, Columns
from detection.data.coco_results import Results, image_of
from detection.evaluation.coco_metrics import COCO_RULES, Rules, evaluation_of, unique_names
from detection.evaluation.matches import IOU, Matches, best_count, match

# Kinds of errors of TIDE (Bolya et al., 2020, Sec. 2.2), by hotcoco's names
ERRORS = {
    "Cls": "wrong class",
    "Loc": "badly placed",
    "Both": "wrong class and badly placed",
    "Dupe": "found twice",
    "Bkg": "background",
    "Miss": "missed",
}
BINS = 10  # of scores, for the calibration


class Point(NamedTuple):
    """What detections from a score on are worth, at IoU 0.5; NaN where nothing is counted."""

    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass
class ClassNumbers:
    """A class's numbers; AP, AP50 and AR are NaN without objects.

    Attributes:
        objects: annotated, crowds not counted.
        best: at the score with the highest F1; None where nothing is right.
        given: at the caller's score, if there is one.
    """

    name: str
    objects: int
    AP: float
    AP50: float
    AR: float
    best: Point | None
    given: Point | None


@dataclass
class Errors:
    """A kind of error: how often it happens, and what AP50 would gain without it."""

    kind: str
    count: int
    AP50: float


class Bin(NamedTuple):
    """Detections with scores from ``low`` to ``high``: their mean score, and how many of them are right."""

    low: float
    high: float
    count: int
    score: float
    precision: float


@dataclass
class LabelError:
    """A detection that is so sure that the label may be wrong.

    Attributes:
        image: index of the annotations' images.
        kind: "wrong label" (a box of another class is annotated there) or "missing label".
        found: label of the detection; ``annotated`` is the other class's.
        bbox: of the detection, x y width height in pixels.
    """

    image: int
    kind: str
    score: float
    found: int
    annotated: int | None
    bbox: tuple[float, float, float, float]


@dataclass
class Analysis:
    """Attributes are of all classes together where nothing else is said.

    Attributes:
        classes: by label.
        best, given: points of all detections, as in ``ClassNumbers``.
        curves: float64 [C, 101], precision at recall 0, 0.01 … 1 and IoU 0.5, as COCO interpolates it; NaN without
            objects.
        confusion: int64 [C + 1, C + 1], objects by class (row) and by what was found there (column); the last row has
            boxes where nothing is, the last column objects that were missed.
        confusion_threshold: score from which detections count there: the given one, else the best F1's.
        errors: by kind.
        false_positives, false_negatives: AP50 that would be gained without any box that is wrong, or object missed.
        calibration: bins of scores; ``ece`` is the mean distance of score and precision over the detections. Empty and
            NaN without objects or detections, and where scores are not from 0 to 1.
        label_errors: the surest first; none without objects, and where scores are not from 0 to 1.
    """

    classes: list[ClassNumbers]
    best: Point | None
    given: Point | None
    curves: np.ndarray
    confusion: np.ndarray
    confusion_threshold: float
    errors: list[Errors]
    false_positives: float
    false_negatives: float
    calibration: list[Bin]
    ece: float
    label_errors: list[LabelError]


def analyze(
    annotations: CocoAnnotations,
    results: Results,
    threshold: float | None = None,
    rules: Rules = COCO_RULES,
    matches: Matches | None = None,
) -> Analysis:
    """Analyzes detections at IoU 0.5 by COCO's matching; objects in crowds are not counted.

    Args:
        threshold: a score at which precision, recall and F1 are wanted, too.
        rules: what is counted.
        matches: what ``match`` gives, where the caller has it.
    """
    matches = match(annotations, results, rules) if matches is None else matches
    evaluation = matches.evaluation
    precision = evaluation.eval["precision"][..., 0, -1]  # [IoU, recall, class]
    curves = np.where(precision[0].T > -1, precision[0].T, np.nan)
    objects = np.bincount(annotations.truth.label[~annotations.truth.crowd], minlength=len(annotations.names))
    rows = np.arange(len(results))
    best, given = _points(results, matches, rows, int(objects.sum()), threshold)
    classes = []
    for label, name in enumerate(unique_names(annotations)):
        points = _points(results, matches, np.flatnonzero(results.label == label), int(objects[label]), threshold)
        ap, ar = matches.by_class[label].tolist()
        classes.append(ClassNumbers(name, int(objects[label]), ap, float(curves[label].mean()), ar, *points))
    shown = threshold if threshold is not None else matches.threshold
    tide, bins, ece, doubtful = _tide(annotations, results, matches, rules), [], math.nan, []
    if objects.any() and len(results) and results.score.min() >= 0 and results.score.max() <= 1:
        calibration = evaluation.calibration(BINS, IOU)
        bins = [
            Bin(one["bin_lower"], one["bin_upper"], one["count"], one["avg_confidence"], one["avg_accuracy"])
            for one in calibration["bins"]
        ]
        ece = calibration["ece"] if calibration["num_detections"] else math.nan
        doubtful = _label_errors(annotations, results, evaluation.image_diagnostics(IOU)["label_errors"])
    return Analysis(
        classes,
        best,
        given,
        curves,
        _confusion(annotations, results, matches, shown),
        shown,
        [Errors(text, tide["counts"][kind], tide["delta_ap"][kind]) for kind, text in ERRORS.items()],
        tide["delta_ap"]["FP"],
        tide["delta_ap"]["FN"],
        bins,
        ece,
        doubtful,
    )


def _points(
    results: Results, matches: Matches, rows: np.ndarray, objects: int, threshold: float | None
) -> tuple[Point | None, Point | None]:
    """Precision, recall and F1 of the detections ``rows`` at the best score, and at the given one."""
    scores, right = matches.ranked(results.score, rows)

    def point(count: int, score: float) -> Point:
        found = int(right[count - 1]) if count else 0
        precision = found / count if count else float("nan")
        recall = found / objects if objects else float("nan")
        return Point(score, precision, recall, 2 * found / (count + objects) if count + objects else float("nan"))

    given = None if threshold is None else point(int((scores >= threshold).sum()), threshold)
    count = best_count(scores, right, objects)
    return (point(count, float(scores[count - 1])) if count else None), given


def _tide(annotations: CocoAnnotations, results: Results, matches: Matches, rules: Rules) -> dict[str, Any]:
    """hotcoco's kinds of errors. It takes a crowd for an object that a box may nearly find, so they are left out."""
    truth, kept = annotations.truth, (matches.object >= 0) | matches.false
    if kept.all() and not truth.crowd.any():  # the usual case: nothing to leave out
        return matches.evaluation.tide_errors(pos_thr=IOU)
    objects = Columns(*(column[~truth.crowd] for column in vars(truth).values()))
    shown = Results(*(column[kept] for column in vars(results).values()))
    evaluation = evaluation_of(replace(annotations, truth=objects), shown, rules)
    evaluation.evaluate()
    return evaluation.tide_errors(pos_thr=IOU)


def _confusion(annotations: CocoAnnotations, results: Results, matches: Matches, threshold: float) -> np.ndarray:
    """hotcoco's matrix. It does not know that boxes in a crowd are neither right nor wrong, so they are left out."""
    kept = ((matches.object >= 0) | matches.false) & (results.score >= threshold)
    shown = Results(*(column[kept] for column in vars(results).values()))
    found = evaluation_of(annotations, shown).confusion_matrix(IOU, max_det=max(1, len(shown)))  # default: 100 an image
    return found["matrix"].astype(np.int64)


def _label_errors(annotations: CocoAnnotations, results: Results, found: list[dict]) -> list[LabelError]:
    listed = []
    for one in sorted(found, key=lambda one: -one["dt_score"]):
        row = one["dt_id"] - 1  # ids count from 1 in the order of the rows
        wrong = one["type"] == "wrong_label"
        listed.append(
            LabelError(
                int(results.image[row]),
                "wrong label" if wrong else "missing label",
                float(results.score[row]),
                int(results.label[row]),
                int(annotations.truth.label[one["gt_id"] - 1]) if wrong else None,
                tuple(results.bbox[row].tolist()),
            )
        )
    return listed


def numbers_of(analysis: Analysis, annotations: CocoAnnotations) -> dict[str, Any]:
    """An analysis as plain values for metrics.json, None where something is not defined."""
    names = [one.name for one in analysis.classes]
    labels = [
        image_of(annotations.images[one.image], annotations.named)
        | {"kind": one.kind, "score": one.score, "found": names[one.found], "bbox": list(one.bbox)}
        | ({} if one.annotated is None else {"annotated": names[one.annotated]})
        for one in analysis.label_errors
    ]
    return {
        "classes": {one.name: _plain(vars(one)) for one in analysis.classes},
        "best": _plain(analysis.best),
        "given": _plain(analysis.given),
        "confusion": {"score": analysis.confusion_threshold, "matrix": analysis.confusion.tolist()},
        "errors": {one.kind: {"count": one.count, "AP50": one.AP50} for one in analysis.errors},
        "calibration": {"ece": _plain(analysis.ece), "bins": [one._asdict() for one in analysis.calibration]},
        "label_errors": labels,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Point):
        value = value._asdict()
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
