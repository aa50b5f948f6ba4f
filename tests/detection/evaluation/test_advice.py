"""What to try next: each rule speaks where its figures say so, and is silent elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.data.annotations import CocoAnnotations, Columns
from detection.evaluation.advice import advice
from detection.evaluation.analysis import Analysis, ClassNumbers, Errors
from detection.evaluation.intervals import Interval
from detection.evaluation.matches import Outcome

SMALL, LARGE = 25, 75  # objects


def said(**changed: Any) -> str:
    """The advice on a good detector, of which some figures are others."""
    lost = changed.pop("lost", (0, 0))
    count = SMALL + LARGE
    bbox = np.repeat([[0, 0, 10, 10], [0, 0, 100, 100]], (SMALL, LARGE), axis=0).astype(float)
    truth = Columns(np.zeros(count, int), np.zeros(count, int), bbox, bbox[:, 2] * bbox[:, 3], np.zeros(count, bool))
    annotations = CocoAnnotations(Path("truth.json"), [], [1], ["cat"], {}, truth)
    found = np.ones(count, bool)
    found[: lost[0]] = found[count - lost[1] :] = False
    outcome = Outcome(0.5, found, np.zeros(0, bool), np.zeros((1, 3), int))
    classes = [
        ClassNumbers(name, n, ap, ap, ap, None, None) for name, n, ap in changed.pop("classes", [("a", 50, 0.6)])
    ]
    errors = [Errors("background", 40, changed.pop("background", 0.01)), Errors("missed", 3, 0.02)]
    labels = [None] * changed.pop("labels", 0)
    analysis = Analysis(
        classes,
        None,
        None,
        np.zeros((1, 101)),
        np.zeros((2, 2)),
        0.5,
        errors,
        0,
        0,
        [],
        changed.pop("ece", 0.02),
        labels,
    )
    interval = Interval(0.6, *changed.pop("interval", (0.58, 0.62)))
    metrics = {"AP": 0.6, "AP50": changed.pop("AP50", 0.8)}
    gain, history = changed.pop("gain", None), changed.pop("history", [])
    assert not changed
    return " ".join(advice(annotations, metrics, analysis, outcome, interval, gain, history, (32, 96)))


def epochs(*aps: float) -> list[dict[str, float]]:
    return [{"epoch": number + 1, "AP": ap} for number, ap in enumerate(aps)]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"AP50": 0.05}, "AP50 is 0.050: the detector has hardly learned"),
        ({"history": epochs(0.1, 0.2, 0.3, 0.4)}, "AP still rose by 0.100 from epoch 3 to the last, 4"),
        ({"history": epochs(0.1, 0.4, 0.35, 0.3)}, "AP fell from 0.400 in epoch 2 to 0.300"),
        ({"background": 0.09}, "The costliest kind of error (0.090 AP50, 40 cases): false boxes on background"),
        ({"lost": (20, 3)}, "Of 25 small objects 80% are missed, of the others 4%"),
        ({"classes": [("a", 50, 0.6), ("b", 50, 0.7), ("rare", 22, 0.2)]}, "rare has AP 0.200, the median is 0.600"),
        ({"gain": Interval(-0.02, -0.03, -0.01)}, "Fusion costs against the best member (-0.020 AP"),
        ({"gain": Interval(0.002, -0.001, 0.005)}, "Whether fusion helps is open (+0.002 AP"),
        ({"ece": 0.2}, "by 0.20 on average (ECE)"),
        ({"labels": 30}, "30 sure boxes have no label of their class, against 50 labels"),
        ({"interval": (0.4, 0.8)}, "AP is known to ±0.20 only"),
    ],
)
def test_a_rule_and_its_figures(changed: dict[str, Any], words: str) -> None:
    assert words in said(**changed)
    assert words not in said()


def test_nothing_stands_out() -> None:
    assert said(gain=Interval(0.02, 0.01, 0.03), history=epochs(0.4, 0.55, 0.59, 0.6), lost=(2, 7)) == ""
