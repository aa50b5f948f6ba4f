"""An analysis as lines of text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from detection.evaluation.analysis import Analysis, Point
    from detection.evaluation.intervals import Comparison

_POINT = f"{'P':>7}{'R':>7}{'F1':>7}"
_WIDEST = 32  # characters of a class's name
_LISTED = 3


def number(value: float | None, width: int = 7) -> str:
    """Three decimals; a dash where it is not defined."""
    return f"{'–' if value is None or math.isnan(value) else f'{value:.3f}':>{width}}"


def class_table(analysis: Analysis) -> Iterator[str]:
    """AP, AP50 and AR of each class, and precision, recall and F1 at the best F1's score and at the given one."""
    width = min(_WIDEST, max([len(one.name) for one in analysis.classes] + [len("all classes")]))
    given = analysis.given
    over = "" if given is None else f"  at score {given.threshold:g}"
    yield f" {'':<{width}}{'':>9}{'':>21}  at the best F1{'':<13}{over}".rstrip()
    yield f" {'class':<{width}}{'objects':>9}{'AP':>7}{'AP50':>7}{'AR':>7}  {'score':>6}{_POINT}" + _POINT * bool(given)
    for one in analysis.classes:
        if not one.objects:
            continue
        numbers = "".join(number(value) for value in (one.AP, one.AP50, one.AR))
        yield f" {_cut(one.name, width):<{width}}{one.objects:>9}{numbers}  {_points(one.best, one.given)}"
    if none := sum(not one.objects for one in analysis.classes):
        yield f" {none} {'class' if none == 1 else 'classes'} without objects not listed"
    objects = sum(one.objects for one in analysis.classes)
    yield f" {'all classes':<{width}}{objects:>9}{'':>21}  {_points(analysis.best, given)}"


def error_lines(analysis: Analysis) -> Iterator[str]:
    """Kinds of errors with what they cost, calibration, and labels that may be wrong."""
    listed = sorted(analysis.errors, key=lambda one: (-one.AP50, -one.count))
    parts = ", ".join(f"{one.kind} {one.AP50:.3f} ({one.count})" for one in listed if one.count)
    yield f" errors, by the AP50 that each costs (and how many): {parts or 'none'}"
    if math.isnan(analysis.ece):
        yield " calibration: not known without objects and detections with scores from 0 to 1"
    else:
        yield f" calibration: scores and precision differ by {analysis.ece:.3f} on average"
        if not analysis.calibration[0].count:
            yield f" no score is below {analysis.calibration[0].high:g}: AP is too low if a threshold has cut them off"
    if analysis.label_errors:
        kinds = [one.kind for one in analysis.label_errors]
        counts = ", ".join(f"{kinds.count(kind)} {kind}s" for kind in sorted(set(kinds)))
        yield f" labels that may be wrong, from sure detections: {counts}"
    if mistaken := _mistaken(analysis):
        listed = ", ".join(mistaken[:_LISTED]) + ", …" * (len(mistaken) > _LISTED)
        yield f" found as other classes: {listed}; have the detections their class ids in another order?"


def _mistaken(analysis: Analysis) -> list[str]:
    """The classes most of whose objects are found as one other class, if half of all classes are so."""
    seen, names = analysis.confusion[:-1, :-1], [one.name for one in analysis.classes]
    objects, other = np.array([one.objects for one in analysis.classes]), seen.argmax(1)
    rows = np.flatnonzero((other != np.arange(len(names))) & (seen.max(1) > objects / 2))
    if 2 * len(rows) < (objects > 0).sum():
        return []
    return [f"{names[row]} as {names[other[row]]} ({seen[row].max()} of {objects[row]})" for row in rows.tolist()]


def comparison_table(comparison: Comparison, name: str) -> Iterator[str]:
    """The differences to another detector's results, overall and of each class, largest gain first."""
    if not comparison.per_class:
        yield f" compared with {name}: nothing, without objects"
        return
    yield f" compared with {name}: AP {comparison.AP}, AP50 {comparison.AP50}, 95 % intervals over images"
    width = min(_WIDEST, max([len(one) for one in comparison.per_class] + [len("class")]))
    yield f" {'class':<{width}}{'theirs':>8}{'own':>8}   AP"
    for one, gain in sorted(comparison.differences.items(), key=lambda row: -row[1].value):
        theirs, own = comparison.per_class[one]
        yield f" {_cut(one, width):<{width}}{theirs:>8.3f}{own:>8.3f}   {gain}"


def _points(best: Point | None, given: Point | None) -> str:
    values = [*((None,) * 4 if best is None else best), *(given or ())[1:]]
    return number(values[0], 6) + "".join(number(value) for value in values[1:])


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"
