import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from classification.losses import co_training_loss, cot_weight_at, js_divergence, kl_divergence


def entropy(p: np.ndarray) -> np.ndarray:
    """Shannon entropy in nats over the last axis, with 0·log 0 = 0."""
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(-1)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


@pytest.mark.parametrize("members", [2, 3, 4])
def test_js_divergence_is_the_difference_of_entropies_of_eq_8(members: int) -> None:
    logits = np.random.default_rng(members).normal(0, 3, (members, 6, 5))
    p = softmax(logits)
    expected = (entropy(p.mean(0)) - entropy(p).mean(0)).mean()
    assert js_divergence(torch.from_numpy(logits)).mean().item() == pytest.approx(expected, rel=1e-12)
    assert js_divergence(torch.from_numpy(logits).float()).mean().item() == pytest.approx(expected, rel=1e-5)


def test_js_divergence_of_one_member_or_of_equal_members_is_zero() -> None:
    logits = torch.randn(1, 4, 7, dtype=torch.float64)
    assert js_divergence(logits).tolist() == [0] * 4
    assert js_divergence(logits.expand(3, -1, -1)).mean().item() == pytest.approx(0, abs=1e-15)


def test_js_divergence_of_members_that_contradict_each_other_is_ln_s() -> None:
    logits = 1e4 * torch.eye(4)[:, None]  # member i is certain of class i
    assert js_divergence(logits).item() == pytest.approx(math.log(4), rel=1e-6)


@pytest.mark.parametrize("members", [1, 2, 4])
def test_kl_divergence_is_that_of_deep_mutual_learning(members: int) -> None:
    logits = torch.from_numpy(np.random.default_rng(members).normal(0, 3, (members, 6, 5))).requires_grad_()
    log_p = logits.log_softmax(-1)
    expected = torch.zeros(6, dtype=torch.float64)
    for i in range(members):
        for j in range(members):
            if i != j:
                kl = F.kl_div(log_p[i], log_p[j].detach(), log_target=True, reduction="none").sum(-1)
                expected = expected + kl / (members - 1)
    found = kl_divergence(logits)
    torch.testing.assert_close(found, expected)
    if members > 1:
        gradients = [torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (found, expected)]
        torch.testing.assert_close(*gradients)
        assert co_training_loss(logits, torch.zeros(6, dtype=torch.int64), 1.0, 0.0, "kl")["cot"] == found.mean()


def test_gradients_are_those_of_finite_differences() -> None:
    logits = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 4, 2, 2])
    assert torch.autograd.gradcheck(js_divergence, logits)
    assert torch.autograd.gradcheck(lambda x: co_training_loss(x, targets, 0.5, 0.1)["loss"], logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_probabilities_of_zero_give_finite_values_and_gradients(dtype: torch.dtype) -> None:
    logits = 1e4 * torch.tensor([[[1, -1, 0], [1, -1, -1]], [[-1, 1, 0], [1, -1, -1]]])
    logits = logits.to(dtype).requires_grad_()
    losses = co_training_loss(logits, torch.tensor([0, 0]), 0.5, 0.1)
    losses["loss"].backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert torch.isfinite(logits.grad).all()
    assert losses["loss"].dtype == torch.float32


def test_half_precision_is_computed_in_full_precision_under_autocast() -> None:
    logits = torch.randn(2, 8, 10).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = js_divergence(logits)
    assert half.tolist() == pytest.approx(js_divergence(logits.double()).tolist(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_sum_of_cross_entropies_plus_weighted_divergence(smoothing: float) -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(3, 5, 4)), rng.integers(4, size=5)
    targets = (1 - smoothing) * np.eye(4)[labels] + smoothing / 4
    p = softmax(logits)
    ce = sum(-(targets * np.log(p[i])).sum(-1).mean() for i in range(3))
    cot = (entropy(p.mean(0)) - entropy(p).mean(0)).mean()
    losses = co_training_loss(torch.from_numpy(logits), torch.from_numpy(labels), 0.7, smoothing)
    assert losses["ce"].item() == pytest.approx(ce)
    assert losses["cot"].item() == pytest.approx(cot)
    assert losses["loss"].item() == pytest.approx(ce + 0.7 * cot)


def test_class_probabilities_are_targets_too() -> None:
    logits, labels = torch.randn(2, 6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    indices = co_training_loss(logits, labels, 0.5, 0.1)
    probabilities = co_training_loss(logits, F.one_hot(labels, 4).float(), 0.5, 0.1)
    torch.testing.assert_close(indices, probabilities)


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.0), (10, 0.125), (39.5, 0.49375), (40, 0.5), (300, 0.5)])
def test_weight_grows_linearly(epoch: float, expected: float) -> None:
    assert cot_weight_at(epoch, 0.5, 40) == pytest.approx(expected)
    assert cot_weight_at(epoch, 0.5, 0) == 0.5
