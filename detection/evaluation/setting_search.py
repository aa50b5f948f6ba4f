"""Post-processing settings searched on some images and judged on others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from detection.data.annotations import CocoAnnotations
from detection.data.coco_results import Results
from detection.evaluation.candidates import Candidates
from detection.evaluation.intervals import Interval, Matched, compare, draws_of, match_results
from detection.evaluation.matches import best_count
from detection.prediction_settings import PostprocessSettings

Metric = Literal["AP", "AP50", "F1"]
Grids = Mapping[str, Sequence[Any]]

# What is tried, in this order; weights and all that begins with fusion_ need several members
OPTIONS = (
    "fusion_method",
    "nms_iou",
    "fusion_iou",
    "fusion_conf",
    "member_weights",
    "score_threshold",
    "class_agnostic",
)


class Measured(NamedTuple):
    """A metric, NaN without objects, and with F1 the score from which on detections are counted."""

    value: float
    score: float | None = None


@dataclass
class Search:
    """What a search tried.

    Attributes:
        metric: what it maximized.
        start: the settings that it began with.
        tried: settings and the metric on the images to choose on, in the order in which they were tried.
        effects: by option, its values and their metric when it was last varied, the others being as they were then.
    """

    metric: Metric
    start: PostprocessSettings
    tried: list[tuple[PostprocessSettings, Measured]] = field(default_factory=list)
    effects: dict[str, list[tuple[Any, float]]] = field(default_factory=dict)

    @property
    def best(self) -> tuple[PostprocessSettings, Measured]:
        """The best of those tried, and of equal ones the first: so today's settings stay where nothing is better."""
        return max(self.tried, key=lambda trial: trial[1].value)


def search(
    candidates: Candidates,
    annotations: CocoAnnotations,
    start: PostprocessSettings,
    grids: Grids,
    metric: Metric = "AP",
    rounds: int = 2,
) -> Search:
    """Varies one option after the other, each from the best settings so far (coordinate search).

    Args:
        candidates: of the images to choose on, which count alone.
        annotations: ground truth of all images.
        start: the settings to begin with.
        grids: values by option; for ``member_weights`` factors, see ``variations``.
        metric: AP, AP50, or F1 at IoU 0.5 and the best score.
        rounds: how often all options are varied; the search ends earlier where a round finds nothing better.
    """
    images = np.zeros(len(annotations.images), bool)
    images[candidates.image] = True
    found, known = Search(metric, start), {}

    def measured(settings: PostprocessSettings) -> float:
        key = repr(settings)
        if key not in known:
            results = candidates.results(settings)
            with candidates.timed("metric"):
                known[key] = measure(annotations, results, images, metric)
            found.tried.append((settings, known[key]))
        return known[key].value

    measured(start)
    for _ in range(rounds):
        before = found.best[0]
        for option in OPTIONS:
            tried = [(value, measured(other)) for value, other in variations(option, found.best[0], grids, candidates)]
            if tried:
                found.effects[option] = tried
        if found.best[0] == before:
            break
    return found


def variations(
    option: str, settings: PostprocessSettings, grids: Grids, candidates: Candidates
) -> Iterator[tuple[Any, PostprocessSettings]]:
    """The settings with other values of an option, its present one included; none where it has no meaning.

    A factor of ``member_weights`` gives each member in turn so many times the mean weight of the others; weights are
    scaled so that the largest is 1.
    """
    members, method = candidates.counts.shape[1], settings.fusion_method
    no_use = (
        (members == 1 and (option.startswith("fusion_") or option == "member_weights"))
        or (option == "fusion_conf" and method != "wbf")
        or (option == "fusion_iou" and method == "soft_nms")
        or not grids.get(option)
    )
    if no_use:
        return
    present = getattr(settings, option)
    values = list(grids[option])
    if option == "member_weights":
        weights = np.array(present or [1.0] * members)
        values = []
        for member in range(members if members > 2 else 1):  # of two, the ratio alone counts
            others = np.delete(weights, member).mean()
            for factor in grids[option] if others else ():
                other = weights.copy()
                other[member] = factor * others
                scaled = (other / other.max()).round(4).tolist()
                values.append(None if set(scaled) == {1.0} else scaled)
    values = [present, *(value for value in values if value != present)]
    unique = [value for i, value in enumerate(values) if value not in values[:i]]
    if all(isinstance(value, int | float) for value in unique):
        unique.sort()
    for value in unique:
        yield value, replace(settings, **{option: value})


def measure(annotations: CocoAnnotations, results: Results, images: np.ndarray, metric: Metric) -> Measured:
    """The metric on some images, bool [images]; AP equals COCO's."""
    matched = match_results(annotations, results)
    if metric == "F1":
        return _best_f1(matched, images)
    aps = matched.aps(images[None].astype(np.int64))[0]
    aps = aps[np.isfinite(aps[:, 0])]
    return Measured(float((aps if metric == "AP" else aps[:, :1]).mean()) if len(aps) else float("nan"))


def difference(
    annotations: CocoAnnotations,
    first: Results,
    second: Results,
    images: np.ndarray,
    metric: Metric,
    scores: tuple[float | None, float | None] = (None, None),
) -> tuple[float, float, Interval]:
    """The metric of two results on some images, bool [images], and the second's less the first's.

    F1 counts detections from ``scores`` on, one for each of the results.
    """
    if metric != "F1":
        values = [measure(annotations, results, images, metric).value for results in (first, second)]
        return *values, getattr(compare(annotations, first, second, images=images), metric)
    draws = draws_of(images)
    drawn = [
        _drawn_f1(match_results(annotations, results), draws, score)
        for results, score in zip((first, second), scores, strict=True)
    ]
    gain = drawn[1] - drawn[0]
    low, high = (
        np.nanquantile(gain[1:], (0.025, 0.975)).tolist() if np.isfinite(gain[1:]).any() else (float("nan"),) * 2
    )
    return float(drawn[0][0]), float(drawn[1][0]), Interval(float(gain[0]), low, high)


def _best_f1(matched: Matched, images: np.ndarray) -> Measured:
    """The highest F1 over all classes at IoU 0.5, and its score."""
    rows = np.flatnonzero(matched.counted[0] & images[matched.image])
    rows = rows[np.argsort(-matched.score[rows], kind="stable")]
    objects = int(matched.objects[:, images].sum())
    if not objects:
        return Measured(float("nan"))
    scores, right = matched.score[rows], matched.right[0, rows].cumsum()
    count = best_count(scores, right, objects)
    if not count:
        return Measured(0.0, 1.0)
    return Measured(float(2 * right[count - 1] / (count + objects)), float(scores[count - 1]))


def _drawn_f1(matched: Matched, draws: np.ndarray, score: float) -> np.ndarray:
    """F1 of the detections from a score on, [D]."""
    shown = matched.counted[0] & (matched.score >= score)
    images = draws.shape[1]
    right = np.bincount(matched.image[shown & matched.right[0]], minlength=images)
    total = np.bincount(matched.image[shown], minlength=images) + matched.objects.sum(0)
    return 2 * (draws @ right) / np.where(draws @ total, draws @ total, np.nan)
