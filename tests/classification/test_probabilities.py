"""Calibration and the terms of Eq. 7 against hand-computed cases and second implementations."""

import numpy as np
import pytest
import torch

from classification.probabilities import calibration_error, calibration_sums, error_sums, squared_error_terms


def terms(probabilities: torch.Tensor, labels: torch.Tensor) -> dict:
    return squared_error_terms(*error_sums(probabilities, labels), len(labels))


def test_terms_of_a_case_by_hand() -> None:
    """Two members, two images of class 0: the errors of class 0 are -.2, -.4 and -.6, 0; those of class 1 the same
    with the other sign, so every square counts twice.
    """
    probabilities = torch.tensor([[[0.8, 0.2], [0.6, 0.4]], [[0.4, 0.6], [1.0, 0.0]]], dtype=torch.float64)
    found = terms(probabilities, torch.tensor([0, 0]))
    assert found["ensemble"] == pytest.approx(2 * (0.4**2 + 0.2**2) / 2)  # the mean errors are -.4 and -.2
    assert found["members"] == pytest.approx([2 * (0.2**2 + 0.4**2) / 2, 2 * 0.6**2 / 2])
    assert found["bias_squared"] == pytest.approx(2 * 0.3**2)
    assert found["variance"] == pytest.approx(2 * (0.1**2 + 0.3**2) / 2)  # ±.1 around -.3, ±.3 around -.3
    assert found["covariance"] == pytest.approx(2 * -0.1 * 0.3)


@pytest.mark.parametrize("s", [1, 2, 5])
def test_terms_add_up_to_the_ensembles_squared_error(s: int) -> None:
    draw = np.random.RandomState(s)
    logits = draw.standard_normal((s, 40, 7)) + 2 * draw.standard_normal((40, 7))  # members that agree in part
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = draw.randint(0, 7, 40)
    # In batches, as they are evaluated
    parts = [
        error_sums(torch.from_numpy(p[:, i : i + 16]), torch.from_numpy(labels[i : i + 16])) for i in range(0, 40, 16)
    ]
    found = squared_error_terms(*(sum(part) for part in zip(*parts, strict=True)), 40)
    error = p - np.eye(7)[labels]
    assert found["ensemble"] == pytest.approx((error.mean(0) ** 2).sum(-1).mean())
    assert found["members"] == pytest.approx((error**2).sum(-1).mean(1))
    covariances = [[sum(np.cov(a[:, c], b[:, c], bias=True)[0, 1] for c in range(7)) for b in error] for a in error]
    assert found["variance"] == pytest.approx(np.trace(covariances) / s)
    between = [covariances[i][j] for i in range(s) for j in range(s) if i != j]
    assert found["covariance"] == (pytest.approx(np.mean(between)) if s > 1 else None)
    total = found["bias_squared"] + found["variance"] / s + (1 - 1 / s) * (found["covariance"] or 0)
    assert total == pytest.approx(found["ensemble"], abs=1e-6)


def expected_calibration_error(p: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Guo et al. 2017, Eq. 3, written out."""
    total = 0.0
    for k in range(bins):
        inside = [n for n in range(len(p)) if k / bins < p[n].max() <= (k + 1) / bins]
        if inside:
            accuracy = np.mean([p[n].argmax() == labels[n] for n in inside])
            confidence = np.mean([p[n].max() for n in inside])
            total += len(inside) / len(p) * abs(accuracy - confidence)
    return total


def test_calibration_error_equals_a_second_implementation() -> None:
    draw = np.random.RandomState(0)
    logits = 2 * draw.standard_normal((3, 90, 6))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    p[0, :30] = np.eye(6)[0]  # sure: the last bin has its upper edge
    p[1, :60] = [0.8, 0.2, 0, 0, 0, 0]  # on the edge of two bins, with others in the lower one
    p[1, 60:] = [0.75, 0.25, 0, 0, 0, 0]
    labels = np.concatenate([draw.randint(0, 6, 60), np.zeros(30, dtype=int)])
    images = torch.from_numpy(p)
    sums = sum(calibration_sums(images[:, i : i + 40], torch.from_numpy(labels[i : i + 40])) for i in range(0, 90, 40))
    expected = [expected_calibration_error(one, labels) for one in p]
    assert len(set(expected)) == 3
    assert calibration_error(sums, 90) == pytest.approx(expected, abs=1e-9)


def test_a_calibrated_classifier_has_no_error() -> None:
    """Sure at 3 of 4 and right at 3 of 4; right at half of what it gives a half."""
    p = torch.tensor([[[0.75, 0.25]] * 4 + [[0.52, 0.48]] * 25], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1] + [0] * 13 + [1] * 12)
    assert calibration_error(calibration_sums(p, labels), 29) == pytest.approx([0])
    assert calibration_error(calibration_sums(p, 1 - labels), 29) == pytest.approx([(4 * 0.5 + 25 * 0.04) / 29])
