"""Errors of predicted probabilities: expected calibration error, and the terms of the paper's Eq. 7."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 15  # of equal width, as in Guo et al. 2017, "On Calibration of Modern Neural Networks"


def calibration_sums(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Sums of a batch for `calibration_error`: probabilities [M,N,C] of M classifiers, labels [N] -> [M,BINS].

    Each is the sum of correct (1 or 0) minus confidence (the largest probability) over a bin's images. The k-th bin
    holds confidences in ((k - 1) / BINS, k / BINS].
    """
    confidences, best = probabilities.max(-1)
    edges = torch.linspace(0, 1, BINS + 1, dtype=confidences.dtype, device=confidences.device)
    gaps = (best == labels).to(confidences.dtype) - confidences
    sums = confidences.new_zeros(len(confidences), BINS)
    return sums.scatter_add_(1, torch.bucketize(confidences, edges[1:-1]), gaps)


def calibration_error(sums: Tensor, images: int) -> list[float]:
    """Expected calibration error of each classifier: mean gap of a bin's accuracy and confidence over all images."""
    return (sums.abs().sum(-1) / images).tolist()


def error_sums(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of a batch for `squared_error_terms`: probabilities [S,N,C], labels [N] -> errors [S,C], products [S,S].

    They are sums over images of the members' errors, and of the dot products of every two members' errors.
    """
    errors = probabilities - F.one_hot(labels, probabilities.shape[-1])
    return errors.sum(1), errors.flatten(1) @ errors.flatten(1).T


def squared_error_terms(errors: Tensor, products: Tensor, images: int) -> dict[str, Any]:
    """Bias, variance and covariance of S members (Eq. 7), from the total of `error_sums`.

    f_i are member i's probabilities, f_en is their mean, and g the one-hot label; squares are summed over classes. As
    a run trains each member once, expectations are means over images of the errors f_i - g. Then exactly
    ensemble = bias_squared + variance / S + (1 - 1 / S) · covariance.

    Returns:
        ``ensemble``: mean of (f_en - g)², in [0, 2]; ``members``: mean of (f_i - g)² of each (Brier score);
        ``bias_squared``: (mean of f_en - g)²; ``variance``: of a member's errors, averaged over the members;
        ``covariance``: of two members' errors, averaged over the pairs, None for a single member.
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
