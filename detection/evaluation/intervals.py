"""How sure an AP is, or the difference of two: the images are drawn again, with replacement, many times."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from detection.data.annotations import CocoAnnotations
from detection.data.coco_results import Results
from detection.evaluation.coco_metrics import COCO_RULES, unique_names

RESAMPLES = 300
_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU


class Interval(NamedTuple):
    """An AP, or a difference of two, and its 95 % interval over images; NaN where it is not defined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} ({self.low:+.3f} … {self.high:+.3f})"

    def numbers(self) -> dict[str, float | None]:
        """As plain values, None for NaN."""
        return {name: None if math.isnan(value) else value for name, value in self._asdict().items()}


@dataclass
class Comparison:
    """AP of a second detector less that of a first, on the same images.

    Attributes:
        AP, AP50: the differences, with intervals. Each draw of images is the same for both.
        per_class: by name, AP of the first and of the second, for classes with objects.
        differences: by name, of the same classes, in AP.
    """

    AP: Interval
    AP50: Interval
    per_class: dict[str, tuple[float, float]]
    differences: dict[str, Interval]

    def numbers(self) -> dict[str, Any]:
        """As plain values."""
        differences = {name: one.numbers() for name, one in self.differences.items()}
        overall = {"AP": self.AP.numbers(), "AP50": self.AP50.numbers()}
        return overall | {"per_class": self.per_class, "differences": differences}


def compare(
    annotations: CocoAnnotations,
    first: Results,
    second: Results,
    max_dets: int = COCO_RULES.max_dets,
    images: np.ndarray | None = None,
) -> Comparison:
    """Compares two detectors' results by a paired bootstrap.

    Args:
        annotations: the ground truth.
        first, second: what is compared.
        max_dets: as in ``Rules``.
        images: bool [images], those that count; default: all.
    """
    draws = random_draws(len(annotations.images)) if images is None else draws_of(images)
    aps = [drawn_aps(annotations, results, draws, max_dets) for results in (first, second)]
    gain = aps[1] - aps[0]
    names = unique_names(annotations)
    labels = np.flatnonzero(np.isfinite(gain[0, :, 0])).tolist()
    first_ap, second_ap = (own[0].mean(1) for own in aps)
    return Comparison(
        _interval(gain),
        _interval(gain[..., :1]),
        {names[label]: (float(first_ap[label]), float(second_ap[label])) for label in labels},
        {names[label]: _interval(gain[:, [label]]) for label in labels},
    )


def interval_of(annotations: CocoAnnotations, results: Results, max_dets: int = COCO_RULES.max_dets) -> Interval:
    """The AP of a detector's results, with its interval by the basic bootstrap.

    AP comes out too high where classes have few objects, and once more in draws of these: their percentiles, which
    differences have, lie too high by both. The basic bootstrap mirrors them at AP, which takes off twice what the draws
    add. Where that is much, as with a thousand classes, either leaves out AP itself: percentiles lie above it, these
    below. How often each holds the AP of all images: benchmarks/interval_coverage.py, docs/evaluation.md.
    """
    value, low, high = _interval(drawn_aps(annotations, results, random_draws(len(annotations.images)), max_dets))
    return Interval(value, *np.clip((2 * value - high, 2 * value - low), 0, 1).tolist())


def random_draws(images: int) -> np.ndarray:
    """How often each image is drawn, int64 [1 + RESAMPLES, images]; the first row takes each once."""
    rng = np.random.default_rng(0)
    drawn = [np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(RESAMPLES)]
    return np.stack([np.ones(images, np.int64), *drawn])


def draws_of(images: np.ndarray) -> np.ndarray:
    """The same of some images, bool [images]: the others are never drawn."""
    draws = np.zeros((1 + RESAMPLES, len(images)), np.int64)
    draws[:, images] = random_draws(int(images.sum()))
    return draws


def drawn_aps(annotations: CocoAnnotations, results: Results, draws: np.ndarray, max_dets: int) -> np.ndarray:
    """COCO's AP where image i counts ``draws[d, i]`` times: float64 [D, C, 10 thresholds], NaN without objects.

    hotcoco 1.3.0 has a bootstrap, but counts an image once however often it is drawn: its intervals are a quarter too
    narrow.
    """
    return match_results(annotations, results, max_dets).aps(draws)


@dataclass
class Matched:
    """n detections, class by class and by falling score, matched to their objects at T thresholds of IoU.

    Attributes:
        image: int64 [n].
        score: float64 [n].
        ends: int64 [C], where each class ends.
        right, counted: bool [T, n]; see ``detection.kernels.average_precision.match``.
        objects: int64 [C, images], crowds not counted.
    """

    image: np.ndarray
    score: np.ndarray
    ends: np.ndarray
    right: np.ndarray
    counted: np.ndarray
    objects: np.ndarray

    def aps(self, draws: np.ndarray) -> np.ndarray:
        """As ``drawn_aps``."""
        from torch import get_num_threads

        from detection.kernels.average_precision import average_precisions
        from detection.kernels.compiled import in_threads

        inputs = draws, self.image, self.ends, self.right, self.counted, self.objects
        aps = np.empty((len(draws), len(self.ends), len(_THRESHOLDS)))
        in_threads(lambda first, end: average_precisions(first, end, *inputs, aps), len(draws), get_num_threads())
        return aps


def match_results(annotations: CocoAnnotations, results: Results, max_dets: int = COCO_RULES.max_dets) -> Matched:
    """Matches detections to objects as COCO does, the best ``max_dets`` of each image and class."""
    from detection.kernels.average_precision import match

    truth, images, classes = annotations.truth, len(annotations.images), len(annotations.names)
    group, object_group = results.label * images + results.image, truth.label * images + truth.image
    rows, objects = np.lexsort((-results.score, group)), np.lexsort((truth.crowd, object_group))
    objects = objects[np.isin(object_group[objects], group)]  # what is left lies in groups with detections
    groups = np.unique(group)
    right, counted = np.zeros((2, len(_THRESHOLDS), len(rows)), bool)
    match(
        results.bbox[rows],
        np.searchsorted(group[rows], groups, side="right"),
        truth.bbox[objects],
        truth.crowd[objects],
        np.searchsorted(object_group[objects], groups, side="right"),
        max_dets,
        _THRESHOLDS,
        right,
        counted,
    )
    position = np.argsort(np.argsort([image.id for image in annotations.images]))  # decides between equal scores
    order = np.lexsort((position[results.image[rows]], -results.score[rows], results.label[rows]))
    present = np.bincount(object_group[~truth.crowd], minlength=classes * images).reshape(classes, images)
    return Matched(
        results.image[rows][order],
        results.score[rows][order],
        np.searchsorted(results.label[rows][order], np.arange(classes), side="right"),
        right[:, order],
        counted[:, order],
        present,
    )


def _interval(aps: np.ndarray) -> Interval:
    """The mean over classes and thresholds of the first of [1 + draws, C, T], and percentiles of the others'."""
    known = np.isfinite(aps[..., 0])
    if not known[0].any():
        return Interval(*[math.nan] * 3)
    sums, counts = np.where(known, aps.mean(2), 0).sum(1), known.sum(1)
    means = sums[counts > 0] / counts[counts > 0]
    return Interval(float(means[0]), *np.quantile(means[1:], (0.025, 0.975)).tolist())
