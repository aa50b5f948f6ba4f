"""What to try next, from an evaluation: few rules, each with the figures that it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from detection.data.annotations import CocoAnnotations

if TYPE_CHECKING:
    from detection.evaluation.analysis import Analysis
    from detection.evaluation.intervals import Interval
    from detection.evaluation.matches import Outcome

_FEW = 20  # objects of a group, below which nothing is said of it
_WIDE = 0.05  # of an interval, on either side
_CALIBRATED = 0.1
_COSTLY = 0.05  # AP50
_LEARNT = 0.1  # AP50
_KINDS = {
    "background": "false boxes on background: add images without objects that look like them, train longer, or raise "
    "the score threshold",
    "badly placed": "boxes badly placed (IoU 0.1 to 0.5): look whether the annotated boxes are tight and consistent; a "
    "larger input or longer training helps to place them",
    "wrong class": "objects taken for another class: see which are confused below; merge classes that annotators "
    "confuse as well, or add examples of both",
    "missed": "objects without any box on them: see their sizes below; more images of such objects, a larger input or "
    "tiles (--tile) help",
    "found twice": "objects found twice: lower postprocess.nms_iou, or postprocess.fusion_iou with several members",
    "wrong class and badly placed": "boxes of another class, badly placed: mostly an undertrained detector",
}


def advice(
    annotations: CocoAnnotations,
    metrics: dict[str, Any],
    analysis: Analysis,
    outcome: Outcome,
    interval: Interval | None,
    gain: Interval | None,
    history: Sequence[dict[str, Any]],
    sizes: tuple[float, float],
) -> list[str]:
    """Lines, the most useful first; empty where nothing stands out.

    Args:
        outcome: at the score of the best F1.
        gain: of fusion in AP over the best member, with its interval.
        sizes: as in ``Rules``.
    """
    if not outcome.found.size or metrics["AP"] < 0:
        return ["The ground truth has no object: nothing can be measured. Evaluate on images with objects."]
    if metrics["AP50"] < _LEARNT:
        return [
            *_training(history),
            f"AP50 is {metrics['AP50']:.3f}: the detector has hardly learned these classes, and no other figure says "
            "much. Train longer, or check by inspect-data that boxes and classes are right.",
        ]
    lines = [*_training(history), *_errors(analysis), *_small(annotations, outcome, sizes)]
    lines += [*_classes(analysis), *_fusion(gain), *_scores(analysis), *_labels(analysis), *_interval(interval)]
    return lines


def _training(history: Sequence[dict[str, Any]]) -> Iterator[str]:
    scored = [line for line in history if line.get("AP", -1) >= 0]
    if len(scored) < 3:
        return
    best, last = max(scored, key=lambda line: line["AP"]), scored[-1]
    before = next(line for line in reversed(scored) if line["epoch"] <= 0.75 * last["epoch"] or line is scored[0])
    rise = last["AP"] - before["AP"]
    if best is last and rise > 0.1 * last["AP"] and last["AP"] > 0:
        yield (
            f"AP still rose by {rise:.3f} from epoch {before['epoch']} to the last, {last['epoch']}: train longer "
            "(train.epochs)."
        )
    elif best["AP"] - last["AP"] > 0.02:
        yield (
            f"AP fell from {best['AP']:.3f} in epoch {best['epoch']} to {last['AP']:.3f} in the last: it "
            "overfits. Fewer epochs, stronger augmentation or more images; best.pt holds "
            "the better epoch."
        )


def _errors(analysis: Analysis) -> Iterator[str]:
    worst = max(analysis.errors, key=lambda one: one.AP50)
    if worst.AP50 >= _COSTLY:
        yield f"The costliest kind of error ({worst.AP50:.3f} AP50, {worst.count:,} cases): {_KINDS[worst.kind]}."


def _small(annotations: CocoAnnotations, outcome: Outcome, sizes: tuple[float, float]) -> Iterator[str]:
    truth = annotations.truth
    objects = ~truth.crowd
    small, other = objects & (truth.area < sizes[0] ** 2), objects & (truth.area >= sizes[0] ** 2)
    if min(small.sum(), other.sum()) < _FEW:
        return
    shares = [float((~outcome.found[group]).mean()) for group in (small, other)]
    if shares[0] > 0.3 and shares[0] > 1.5 * shares[1]:
        yield (
            f"Of {small.sum():,} small objects {shares[0]:.0%} are missed, of the others {shares[1]:.0%}: make them "
            "larger for the network, by tiles (--tile) or model.input_size."
        )


def _classes(analysis: Analysis) -> Iterator[str]:
    known = [one for one in analysis.classes if one.objects >= _FEW and not math.isnan(one.AP)]
    if len(known) < 2:
        return
    worst, median = min(known, key=lambda one: one.AP), float(np.median([one.AP for one in known]))
    if 0.75 * median <= worst.AP:
        return
    found = f"{worst.name} has AP {worst.AP:.3f}, the median is {median:.3f}"
    if worst.objects < 0.5 * np.median([one.objects for one in known]):
        yield f"{found}, and with {worst.objects:,} objects few examples: add some, or set data.class_balanced."
    else:
        yield f"{found}, and it is not rare ({worst.objects:,} objects here): look at its images before adding more."


def _fusion(gain: Interval | None) -> Iterator[str]:
    if gain is None:
        return
    range_of = f"{gain.value:+.3f} AP, 95 % interval {gain.low:+.3f} to {gain.high:+.3f}"
    if gain.high <= 0:
        yield (
            f"Fusion costs against the best member ({range_of}): try other postprocess.fusion_iou and fusion_conf, or "
            "run that member alone."
        )
    elif gain.low <= 0:
        yield (
            f"Whether fusion helps is open ({range_of}): if speed counts, the best member alone may do; members that "
            "differ more (other backbones, data.different_views) have more to gain."
        )


def _scores(analysis: Analysis) -> Iterator[str]:
    if analysis.ece > _CALIBRATED:
        choice = f"; F1 is best from a score of {analysis.best.threshold:.2f}" if analysis.best else ""
        yield (
            f"Scores differ from the share of right boxes by {analysis.ece:.2f} on average (ECE): do not take them for "
            f"probabilities, and choose the threshold from the chart below{choice}."
        )


def _labels(analysis: Analysis) -> Iterator[str]:
    doubtful, objects = len(analysis.label_errors), sum(one.objects for one in analysis.classes)
    if doubtful >= max(_FEW, 0.05 * objects):
        yield (
            f"{doubtful:,} sure boxes have no label of their class, against {objects:,} labels: look at them below. "
            "Where the labels are wrong, AP is better than it seems, and training suffers from the same."
        )


def _interval(interval: Interval | None) -> Iterator[str]:
    if interval is not None and interval.high - interval.low > 2 * _WIDE:
        yield (
            f"AP is known to ±{(interval.high - interval.low) / 2:.2f} only: differences of less between two runs say "
            "nothing. Validate on more images."
        )
