"""Errors of predicted probabilities: expected calibration error, and the terms of the paper's Eq. 7."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 15  # of equal width, as in Guo et al. 2017, "On Calibration of Modern Neural Networks"


def calibration_sums(probabilities: Tensor, labels: Tensor) -> Tensor:
    """A batch's contribution to the expected calibration error of M classifiers.

    Args:
        probabilities: [M,N,C] in 0…1.
        labels: [N].

    Returns:
        [M,BINS]: for each bin ((k - 1) / BINS, k / BINS] of the confidence (the largest probability), the sum over its
        images of correct (1 or 0) minus confidence.
    """
    confidences, best = probabilities.max(-1)
    edges = torch.linspace(0, 1, BINS + 1, dtype=confidences.dtype, device=confidences.device)
    gaps = (best == labels).to(confidences.dtype) - confidences
    sums = confidences.new_zeros(len(confidences), BINS)
    return sums.scatter_add_(1, torch.bucketize(confidences, edges[1:-1]), gaps)


def calibration_error(sums: Tensor, images: int) -> list[float]:
    """The expected calibration error in 0…1 of each classifier, from the total of `calibration_sums`: the gap between
    accuracy and mean confidence of each bin, averaged over the bins weighted by their number of images.
    """
    return (sums.abs().sum(-1) / images).tolist()


def error_sums(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """A batch's contribution to the terms of Eq. 7: probabilities [S,N,C] and labels [N] -> sums over images of each
    member's errors by class [S,C], and of the dot products of every two members' errors [S,S].
    """
    errors = probabilities - F.one_hot(labels, probabilities.shape[-1])
    return errors.sum(1), errors.flatten(1) @ errors.flatten(1).T


def squared_error_terms(errors: Tensor, products: Tensor, images: int) -> dict[str, Any]:
    """Bias, variance and covariance of S members (Eq. 7), from the total of `error_sums`.

    f_i are member i's probabilities, g the one-hot label, f_en the mean of the f_i; squares are summed over classes. A
    run trains each member only once, so the expectation is taken over the images instead, of the errors f_i - g. Then
    exactly: ensemble = bias_squared + variance / S + (1 - 1 / S) · covariance.

    Returns:
        ``ensemble``: mean of (f_en - g)², in 0…2; ``members``: mean of (f_i - g)² of each (Brier's score);
        ``bias_squared``: (mean of f_en - g)²; ``variance``: of a member's error over the images, averaged over the
        members; ``covariance``: of the errors of two members, averaged over the pairs, None for a single member.
    """
    members, means = len(products), errors / images
    covariances = products / images - means @ means.T
    own = covariances.trace()
    pairs = members * (members - 1)
    return {
        "ensemble": (products.sum() / images / members**2).item(),
        "members": (products.diagonal() / images).tolist(),
        "bias_squared": means.mean(0).square().sum().item(),
        "variance": (own / members).item(),
        "covariance": ((covariances.sum() - own) / pairs).item() if pairs else None,
    }
