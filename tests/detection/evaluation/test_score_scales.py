"""Score scales by hand, by SciPy's isotonic regression, and by a plain loop over detections."""

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from detection.evaluation.score_scales import _isotonic, by_precision, by_rank, scale_fault
from tests.detection.evaluation.cases import columns, load, random_set


def test_by_rank() -> None:
    found = by_rank(np.array([-2.0, 7.0, 3.0, 3.0]), objects=2)
    np.testing.assert_allclose(found, [2 / 6, 2 / 3, 2 / 4.5, 2 / 4.5])  # the middle two share the ranks 2 and 3
    assert len(by_rank(np.zeros(0), 0)) == 0


def test_isotonic_regression_equals_scipys() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        counts = rng.integers(1, 9, 30)
        hits = rng.binomial(counts, np.linspace(0.2, 0.9, 30))
        expected = isotonic_regression(hits / counts, weights=counts).x
        np.testing.assert_allclose(_isotonic(hits, counts), expected, atol=1e-12)


def test_by_precision(tmp_path: Path) -> None:
    """Detections are matched by a loop; the regression is SciPy's."""
    truth, results = random_set(3)
    truth["annotations"] = [entry for entry in truth["annotations"] if not entry["iscrowd"]]
    annotations = load(tmp_path, truth)
    found = columns(tmp_path, results, annotations)
    right = np.zeros(len(found))
    taken = set()
    for row in np.argsort(-found.score, kind="stable"):
        own = (annotations.truth.image == found.image[row]) & (annotations.truth.label == found.label[row])
        best, best_iou = None, 0.5
        for number in np.flatnonzero(own):
            a, b = found.bbox[row], annotations.truth.bbox[number]
            sides = np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - np.maximum(a[:2], b[:2])
            overlap = sides.clip(0).prod()
            iou = overlap / (a[2:].prod() + b[2:].prod() - overlap)
            if number not in taken and iou >= best_iou:
                best, best_iou = number, iou
        if best is not None:
            taken.add(best)
            right[row] = 1
    assert 10 < right.sum() < len(right) - 10
    values, place = np.unique(found.score, return_inverse=True)
    counts = np.bincount(place)
    precision = isotonic_regression(np.bincount(place, right) / counts, weights=counts).x
    expected = 0.999 * precision + 0.001 * np.arange(1, len(values) + 1) / len(values)
    np.testing.assert_allclose(by_precision(annotations, found), expected[place], atol=1e-9)


@pytest.mark.parametrize(
    ("scores", "fault"),
    [([0.0, 1.0], ""), ([], ""), ([0.5, 3.0], "percent"), ([5, 640], "thousandths"), ([-1.0, 0.2], "logits"),
     ([3, 4000], "scores from 3 to 4000")],
)  # fmt: skip
def test_scale_fault(scores: list[float], fault: str) -> None:
    found = scale_fault(np.array(scores))
    assert fault in found
    assert bool(fault) == bool(found)
