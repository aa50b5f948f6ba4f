"""Scores of several detectors brought to one scale, on which their fusion can compare them."""

import numpy as np

from detection.data.annotations import CocoAnnotations
from detection.data.coco_results import Results
from detection.evaluation.coco_metrics import Rules
from detection.evaluation.matches import match


def scale_fault(scores: np.ndarray) -> str:
    """What the scores look like if they are no probabilities, as the end of a sentence; empty where they may be."""
    if not len(scores) or (scores.min() >= 0 and scores.max() <= 1):
        return ""
    held = f"scores from {scores.min():g} to {scores.max():g}"
    if scores.min() < 0:
        return f"{held}, which look like logits (a sigmoid makes probabilities of them)"
    for most, name in ((100, "percent"), (1000, "thousandths")):
        if scores.max() <= most:
            return f"{held}, which look like {name} (divide them by {most})"
    return held


def by_rank(scores: np.ndarray, objects: int) -> np.ndarray:
    """Give the i-th best of scores [n] the score ``objects / (objects + i)``, whatever their scale.

    So a file that lists many poor detections keeps the scores of its good ones. Equal scores stay equal.

    Args:
        objects: how many are annotated.
    """
    _, place, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    rank = counts.cumsum() - (counts - 1) / 2  # the mean rank of equal scores
    return (max(objects, 1) / (max(objects, 1) + rank))[place.reshape(-1)]


def by_precision(annotations: CocoAnnotations, results: Results) -> np.ndarray:
    """Give each detection the share of right ones among those of its score, by isotonic regression over all classes.

    Right is an IoU of at least 0.5 with an object that no better detection of its class has. Scores keep their order.

    Returns:
        float64 [n] in 0..1.
    """
    found = match(annotations, results, Rules(max_dets=max(len(results), 11)))
    right = found.object >= 0
    counted = right | found.false  # the others are in crowds
    values, place = np.unique(results.score, return_inverse=True)
    place = place.reshape(-1)
    hits = np.bincount(place, weights=right, minlength=len(values))
    precision = _isotonic(hits, np.bincount(place, weights=counted, minlength=len(values)))
    # A thousandth of the order keeps apart what the steps of the regression make equal.
    return (0.999 * precision + 0.001 * np.arange(1, len(values) + 1) / max(len(values), 1))[place]


def _isotonic(hits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The non-decreasing means that fit ``hits / counts`` best (pool adjacent violators)."""
    blocks: list[list[float]] = []  # hits, counts, values
    for hit, count in zip(hits.tolist(), counts.tolist(), strict=True):
        blocks.append([hit, count, 1])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    return np.repeat([hit / max(count, 1) for hit, count, _ in blocks], [int(size) for *_, size in blocks])
