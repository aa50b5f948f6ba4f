"""How sure an AP is, or the difference of two: the images are drawn again, with replacement, many times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from detection.data.annotations import CocoAnnotations
from detection.data.coco_results import Results
from detection.evaluation.coco_metrics import COCO_RULES, evaluation_of, unique_names

RESAMPLES = 300


class Interval(NamedTuple):
    """An AP, or a difference of two, and its 95 % interval over images."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} ({self.low:+.3f} … {self.high:+.3f})"


@dataclass
class Comparison:
    """AP of a second detector less that of a first, on the same images.

    Attributes:
        AP, AP50: the differences, with intervals. Each draw of images is the same for both.
        per_class: by name, AP of the first and of the second, for classes with objects.
    """

    AP: Interval
    AP50: Interval
    per_class: dict[str, tuple[float, float]]

    def numbers(self) -> dict[str, Any]:
        """As plain values."""
        return {"AP": self.AP._asdict(), "AP50": self.AP50._asdict(), "per_class": self.per_class}


def compare(
    annotations: CocoAnnotations, first: Results, second: Results, max_dets: int = COCO_RULES.max_dets
) -> Comparison:
    """Compares two detectors' results by hotcoco's paired bootstrap; ``max_dets`` as in ``Rules``."""
    from hotcoco import compare

    evaluations = []
    for results in (first, second):
        evaluation = evaluation_of(annotations, results)
        params = evaluation.params
        params.area_rng, params.area_rng_lbl, params.max_dets = [[0, 1e10]], ["all"], [max_dets]  # a tenth of the time
        evaluation.params = params
        evaluation.evaluate()
        evaluations.append(evaluation)
    found = compare(*evaluations, n_bootstrap=RESAMPLES, seed=0)
    parts = [
        Interval(found["deltas"][name], found["ci"][name]["lower"], found["ci"][name]["upper"])
        for name in ("AP", "AP50")
    ]
    names, counted = unique_names(annotations), annotations.truth.label[~annotations.truth.crowd]
    by_label = {line["cat_id"] - 1: (line["ap_a"], line["ap_b"]) for line in found["per_category"]}
    per_class = {names[label]: by_label[label] for label in np.unique(counted).tolist() if label in by_label}
    return Comparison(*parts, per_class)


def interval_of(annotations: CocoAnnotations, results: Results, max_dets: int = COCO_RULES.max_dets) -> Interval:
    """The AP of a detector's results, with its interval."""
    nothing = Results(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
    return compare(annotations, nothing, results, max_dets).AP
