"""Classes, score thresholds, kinds of errors and doubtful labels, for a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from detection.evaluation.matches import IOU
from detection.visual.charts import Series, lines
from detection.visual.html import (
    bar,
    bullets,
    charts,
    columns,
    folded,
    fraction,
    heat,
    paragraph,
    pictures,
    section,
    table,
    text,
)
from detection.visual.outcomes import FALSE, Found, Pictures, first_drawn
from divdet.engine.words import counted

if TYPE_CHECKING:
    from detection.evaluation.analysis import Analysis, Point
    from detection.evaluation.intervals import Interval

_OPEN, _CLASSES = 12, 500  # classes that are shown, and folded
_CURVES = 4  # classes in a chart
_MATRIX = 10  # classes of a confusion matrix; with more, the most frequent confusions
_PAIRS, _DOUBTFUL = 15, 12
_MEANINGS = {
    "AP": {
        "AP": "mean over IoU 0.50 to 0.95",
        "AP50": "IoU 0.50",
        "AP75": "IoU 0.75",
        "APs": "small objects: below {sizes[0]:g} × {sizes[0]:g} pixels",
        "APm": "medium objects",
        "APl": "large objects: from {sizes[1]:g} × {sizes[1]:g} pixels on",
    },
    "AR": {
        "AR1": "1 box an image and class",
        "AR10": "10 boxes",
        "AR100": "{max_dets} boxes",
        "ARs": "small objects",
        "ARm": "medium objects",
        "ARl": "large objects",
    },
}


def numbers(metrics: dict[str, Any], analysis: Analysis, interval: Interval | None, found: Found) -> str:
    """COCO's numbers, classes, and curves over score and recall."""
    told = ""
    if interval is not None:
        told = (
            f"AP {interval.value:.3f}; 95 % bootstrap interval over the images: {interval.low:.3f} to "
            f"{interval.high:.3f}."
        )
    halves = [
        table(
            f"COCO's numbers: {'average precision' if half == 'AP' else 'average recall'}",
            ["", "counts", half],
            [
                [text(name), text(what.format(**metrics["rules"])), bar(fraction(metrics[name]), metrics[name])]
                for name, what in held.items()
            ],
            "ttb",
        )
        for half, held in _MEANINGS.items()
    ]
    drawn = [_curves(analysis), _thresholds(analysis, found), _calibration(analysis)]
    return section(
        "Numbers",
        paragraph(told) if told else "",
        columns(*halves),
        _classes(analysis),
        charts(drawn),
    )


def _classes(analysis: Analysis) -> str:
    given = analysis.given
    head = ["Class", "objects", "AP", "AP50", "AR", "threshold", "precision", "recall", "F1"]
    head += [f"{name} from {given.threshold:g}" for name in ("precision", "recall", "F1")] if given else []
    known = sorted(analysis.classes, key=lambda one: (math.isnan(one.AP), -one.AP if one.objects else 0))
    rows = [
        [
            text(one.name),
            f"{one.objects:,}",
            *(bar(fraction(value), 0 if math.isnan(value) else value) for value in (one.AP, one.AP50, one.AR)),
            *_point(one.best, True),
            *(_point(one.given, False) if given else ()),
        ]
        for one in known[:_CLASSES]
    ]
    rows_of_all = ["all classes", f"{sum(one.objects for one in known):,}", "", "", ""]
    rows_of_all += [*_point(analysis.best, True), *(_point(given, False) if given else ())]
    styles = "t bbb"
    more = len(known) - _OPEN
    last = [rows_of_all] if len(known) > 1 else []
    first = table("By class, highest AP first", head, [*rows[:_OPEN], *last], styles)
    told = (
        f"Precision, recall and F1 are those at the threshold of the best F1, at IoU {IOU}. "
        "AP is – for a class without objects."
    )
    rest = folded(counted(more, "more class", "more classes"), table("Further classes", head, rows[_OPEN:], styles))
    return first + (rest if more > 0 else "") + paragraph(told, "faint")


def _point(point: Point | None, threshold: bool) -> list[str]:
    values = (None,) * 4 if point is None else point
    return [("–" if values[0] is None else f"{values[0]:.2f}")] * threshold + [fraction(value) for value in values[1:]]


def _curves(analysis: Analysis) -> str:
    known = [label for label, one in enumerate(analysis.classes) if one.objects]
    if not known:
        return ""
    order = sorted(known, key=lambda label: -analysis.classes[label].AP)
    if len(order) > _CURVES:  # the mean, and classes from the best to the worst
        places = np.linspace(0, len(order) - 1, _CURVES).round().astype(int)
        order = [order[place] for place in places]
    recall = np.linspace(0, 1, analysis.curves.shape[1])
    series = [Series(analysis.classes[label].name, recall, analysis.curves[label]) for label in order]
    if len(known) > 1:
        series.insert(0, Series("mean of all classes", recall, analysis.curves[known].mean(0)))
    caption = f"At IoU {IOU}. The area below a line is the class's AP50."
    if len(known) > _CURVES:
        caption += f" Shown are the best, the worst and {_CURVES - 2} between them of {len(known)} classes."
    return lines("Precision over recall", series, ("recall", "precision"), caption, top=1.02)


def _thresholds(analysis: Analysis, found: Found) -> str:
    objects = sum(one.objects for one in analysis.classes)
    ranked, right = found.matches.ranked(found.results.score, np.arange(len(found.results)))
    if not objects or not len(ranked):
        return ""
    scores = np.linspace(0, 1, 101)
    shown = np.searchsorted(-ranked, -scores, side="right")
    right = np.append(0, right)[shown]
    precision = np.where(shown > 0, right / np.maximum(shown, 1), np.nan)
    series = [
        Series("F1", scores, 2 * right / (shown + objects)),
        Series("precision", scores, precision),
        Series("recall", scores, right / objects),
    ]
    caption = f"All classes together, at IoU {IOU}."
    if analysis.best:
        caption += f" F1 is best, {analysis.best.f1:.3f}, from a score of {analysis.best.threshold:.2f}."
    return lines("Which score to start from", series, ("lowest score that is shown", "share"), caption, top=1.02)


def _calibration(analysis: Analysis) -> str:
    bins = [one for one in analysis.calibration if one.count]
    if not bins:
        return ""
    series = [Series("this detector", [one.score for one in bins], [one.precision for one in bins])]
    too_sure = sum(one.count * (one.score - one.precision) for one in bins) > 0
    caption = (
        f"On the thin line, a score says how likely a box is right. The mean distance (ECE) is {analysis.ece:.3f}; "
        f"{'points below the line: overconfident.' if too_sure else 'points above the line: underconfident.'}"
    )
    axes = ("score", "share of right boxes")
    return lines("Are scores probabilities?", series, axes, caption, top=1.02, diagonal=True)


def errors(analysis: Analysis, names: Sequence[str], shown: Pictures) -> str:
    """Kinds of errors, confusions, and labels that may be wrong."""
    most = max([one.AP50 for one in analysis.errors] + [1e-9])
    listed = sorted(analysis.errors, key=lambda one: (-one.AP50, -one.count))
    rows = [[text(one.kind), f"{one.count:,}", bar(f"{one.AP50:.3f}", one.AP50 / most)] for one in listed]
    rows.append(["all false boxes", "", bar(f"{analysis.false_positives:.3f}", analysis.false_positives / most)])
    rows.append(["all objects not found", "", bar(f"{analysis.false_negatives:.3f}", analysis.false_negatives / most)])
    told = "AP50 that would be gained if there were no errors of one kind, by TIDE; boxes of any score count."
    kinds = table("Kinds of errors", ["Kind", "boxes or objects", "AP50 lost"], rows, "t b")
    return section(
        "Errors", paragraph(told), columns(kinds, _confusion(analysis, names)), _labels(analysis, names, shown)
    )


def _confusion(analysis: Analysis, names: Sequence[str]) -> str:
    matrix, classes = analysis.confusion, len(names)
    start = f"from score {analysis.confusion_threshold:.2f}"
    if 1 < classes <= _MATRIX:
        totals = np.maximum(matrix.sum(1), 1)
        head = ["Annotated", *names, "missed"]
        rows = [
            [text(name), *(heat(f"{count:,}", count / totals[row]) for count in matrix[row])]
            for row, name in enumerate([*names, "nothing"])
        ]
        rows[-1][-1] = "–"
        return table(f"What was found where an object is annotated, {start}", head, rows)
    own = matrix[:classes, :classes].copy()
    np.fill_diagonal(own, 0)
    order = np.argsort(-own, axis=None, kind="stable")[:_PAIRS]
    pairs = [(row, column) for row, column in zip(*np.unravel_index(order, own.shape), strict=True) if own[row, column]]
    if not pairs:
        return paragraph(f"No object was taken for one of another class, {start}.") if classes > 1 else ""
    most = own[pairs[0]]
    rows = [
        [text(names[row]), text(names[column]), bar(f"{own[row, column]:,}", own[row, column] / most)]
        for row, column in pairs
    ]
    return table(f"Classes that are confused most, {start}", ["Annotated", "found as", "objects"], rows, "ttb")


def _labels(analysis: Analysis, names: Sequence[str], shown: Pictures) -> str:
    found = analysis.label_errors
    if not found:
        return ""
    captions = []
    for one in found:
        what = "nothing is annotated" if one.annotated is None else f"annotated as {names[one.annotated]}"
        captions.append(f"{names[one.found]} {one.score:.2f}; {what}, in {shown.name(one.image)}")
    pairs = zip(found, captions, strict=True)
    crops = (shown.crop(one.image, np.array(one.bbox), FALSE, caption) for one, caption in pairs)
    drawn = first_drawn(crops, _DOUBTFUL)
    told = (
        f"{counted(len(found), 'box', 'boxes')} with a score from 0.50 where no object of that class is annotated. "
        "The detector is wrong, or the label: a look decides. The surest:"
    )
    listed = pictures(drawn, "crops") or bullets(captions[:_DOUBTFUL])  # without images, in words
    return f"<h3>Labels that may be wrong</h3>{paragraph(told)}{listed}"
