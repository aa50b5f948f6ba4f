"""Weighted boxes fusion (Solovyev et al., 2021): boxes of several detectors averaged into one set.

A drop-in for ``ensemble_boxes.weighted_boxes_fusion`` 1.0.9, equal to it bit for bit where scores are distinct.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

ConfType = Literal["avg", "max", "box_and_model_avg", "absent_model_aware_avg"]

# Fractions of the image. A detector's box may overshoot its image; farther out it can only be in pixels.
MIN_COORDINATE, MAX_COORDINATE = -1.0, 2.0


def weighted_boxes_fusion(
    boxes_list: Sequence[ArrayLike],
    scores_list: Sequence[ArrayLike],
    labels_list: Sequence[ArrayLike],
    weights: ArrayLike | None = None,
    iou_thr: float = 0.55,
    skip_box_thr: float = 0.0,
    conf_type: ConfType = "avg",
    allows_overflow: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.integer]]:
    """Fuse the boxes of S members on one image.

    Boxes of one label are visited by falling score (times the member's weight). Each joins the cluster whose running
    box it overlaps most, if that IoU is strictly above ``iou_thr``, or else opens a cluster. A cluster's box is the
    mean of its boxes weighted by score. Ties have a fixed order: among equal scores the earlier member comes first,
    then the earlier box; among equal fused scores the lower label, then the cluster that opened earlier.

    boxes_list: per member [n, 4] (x1, y1, x2, y2) as fractions of the image, clipped to [0, 1]; swapped corners are
        put right, boxes without area are dropped. A member without boxes may be an empty list.
    scores_list: per member [n], not negative. labels_list: per member [n] integers.
    weights: per member, >= 0, not all zero; None means 1 each. A box of weight 0 neither moves a box nor adds score:
        one that only such members found comes out with score 0.
    skip_box_thr: boxes whose unweighted score is lower are left out.
    conf_type: a cluster's score. W is the sum of all weights, s the sum of the cluster's scores, n its boxes:
        "avg" s / n * min(n, S) / W, or s / W with ``allows_overflow``, which may exceed 1;
        "max" the highest score / the highest weight;
        "box_and_model_avg" s / (sum of the boxes' weights) * (weights of the members present) / W;
        "absent_model_aware_avg" s / (sum of the boxes' weights + weights of the members absent).

    Returns boxes [k, 4] float64 in [0, 1], scores [k] float64 descending, labels [k] in the labels' integer dtype
    (int64 for lists, for whole numbers stored as floats, and where there are none).

    Raises ValueError for lists of different lengths, values that are not finite, coordinates below -1 or above 2
    (pixels), labels that are not whole numbers, negative scores that pass ``skip_box_thr``, bad weights or options.
    """
    if conf_type not in get_args(ConfType):
        raise ValueError(f"conf_type is {conf_type!r}; it must be one of {', '.join(get_args(ConfType))}")
    if not 0 <= iou_thr <= 1:
        raise ValueError(f"iou_thr is {iou_thr}; it must lie in 0..1")
    weights = _checked_weights(weights, len(boxes_list))
    boxes, scores, labels, members = _gather(boxes_list, scores_list, labels_list, skip_box_thr)
    if not len(boxes):
        return np.zeros((0, 4)), np.zeros(0), labels

    from detection._fusion_kernel import cluster_boxes  # here, because numba takes long to import

    box_weights = weights[members]
    scores = scores * box_weights
    order = np.lexsort((-scores, labels))  # stable
    scores, labels = scores[order], labels[order]
    starts = np.concatenate(([0], np.flatnonzero(labels[1:] != labels[:-1]) + 1, [len(labels)]))
    fused, first_rows, counts, score_sums, weight_sums, present = cluster_boxes(
        boxes[order], scores, box_weights[order], members[order], starts, len(weights), float(iou_thr)
    )

    # ensemble-boxes holds the mean score and the weight of a cluster of two or more boxes in float32.
    rounded = scores[first_rows] if conf_type == "max" else score_sums / counts
    several = counts > 1
    rounded[several] = rounded[several].astype(np.float32)
    weight_sums[several] = weight_sums[several].astype(np.float32)
    fused_scores = _cluster_scores(rounded, counts, weight_sums, present, weights, conf_type, allows_overflow)

    order = np.argsort(-fused_scores, kind="stable")
    return fused[order], fused_scores[order], labels[first_rows][order]


def _checked_weights(weights: ArrayLike | None, num_members: int) -> NDArray[np.float64]:
    if weights is None:
        return np.ones(num_members)
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (num_members,):
        raise ValueError(f"weights has shape {weights.shape}; {num_members} members need {num_members} weights")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError(f"weights are {weights.tolist()}; they must be finite, not negative, and not all zero")
    return weights


def _gather(
    boxes_list: Sequence[ArrayLike],
    scores_list: Sequence[ArrayLike],
    labels_list: Sequence[ArrayLike],
    threshold: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.integer], NDArray[np.int64]]:
    """Check all members; return the boxes that take part, with their scores, labels and members, in input order."""
    num_members = len(boxes_list)
    if not num_members == len(scores_list) == len(labels_list):
        raise ValueError(
            f"boxes of {num_members} members, scores of {len(scores_list)} and labels of {len(labels_list)}: "
            "the three lists need one entry per member"
        )
    member_boxes, member_scores, member_labels, kept = [], [], [], []
    for member, (boxes, scores, labels) in enumerate(zip(boxes_list, scores_list, labels_list, strict=True)):
        boxes, scores, labels = _checked_member(member, boxes, scores, labels)
        member_boxes.append(boxes)
        member_scores.append(scores)
        member_labels.append(labels)
        kept.append(~(scores < threshold))  # in the scores' own precision

    filled = [labels for labels in member_labels if len(labels)]
    if not filled:
        return np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64)
    boxes = np.concatenate(member_boxes)
    lower, upper = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    boxes = np.concatenate((lower, upper), axis=1).clip(0, 1)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    take = np.concatenate(kept) & (area != 0)

    scores = np.concatenate(member_scores, dtype=np.float64)[take]
    if (scores < 0).any():
        raise ValueError(f"a score is {scores.min()}; scores must not be negative")
    members = np.repeat(np.arange(num_members), [len(scores) for scores in member_scores])
    return boxes[take], scores, np.concatenate(filled)[take], members[take]


def _checked_member(
    member: int, boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.float64], NDArray, NDArray[np.integer]]:
    """One member's input as arrays: boxes [n, 4] float64, scores [n] of any dtype, labels [n] of an integer dtype."""
    boxes, scores, labels = np.asarray(boxes, dtype=np.float64), np.asarray(scores), np.asarray(labels)
    if not boxes.size:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != (len(boxes),) or labels.shape != (len(boxes),):
        raise ValueError(
            f"member {member}: boxes {boxes.shape}, scores {scores.shape} and labels {labels.shape}; "
            "they must be [n, 4], [n] and [n]"
        )
    if not len(boxes):
        return boxes, scores.astype(np.float64), labels.astype(np.int64)
    # Comparisons with NaN are false.
    if not (boxes.min() >= MIN_COORDINATE and boxes.max() <= MAX_COORDINATE):
        bad = boxes[~((boxes >= MIN_COORDINATE) & (boxes <= MAX_COORDINATE))][0]
        raise ValueError(f"member {member}: coordinate {bad}; boxes must be fractions of the image (0..1), not pixels")
    if not np.isfinite(scores).all():
        raise ValueError(f"member {member}: score {scores[~np.isfinite(scores)][0]}; scores must be finite")
    if labels.dtype.kind not in "iu":
        fractional = (np.rint(labels) != labels) | np.isinf(labels)
        if fractional.any():
            raise ValueError(f"member {member}: label {labels[fractional][0]}; labels must be whole numbers")
        labels = labels.astype(np.int64)
    return boxes, scores, labels


def _cluster_scores(
    scores: NDArray[np.float64],
    counts: NDArray[np.int64],
    weight_sums: NDArray[np.float64],
    present: NDArray[np.bool_],
    weights: NDArray[np.float64],
    conf_type: ConfType,
    allows_overflow: bool,
) -> NDArray[np.float64]:
    """Scale each cluster's mean (for "max": highest) score by the members that found it; all [k], present [k, S]."""
    if conf_type == "max":
        return scores / weights.max()
    if conf_type == "box_and_model_avg":
        # Boxes of weight 0 only: the numerator is 0 as well.
        box_mean = np.divide(scores * counts, weight_sums, out=np.zeros_like(scores), where=weight_sums > 0)
        return box_mean * _weight_of(present, weights) / weights.sum()
    if conf_type == "absent_model_aware_avg":
        return scores * counts / (weight_sums + _weight_of(~present, weights))
    if allows_overflow:
        return scores * counts / weights.sum()
    return scores * np.minimum(counts, len(weights)) / weights.sum()


def _weight_of(chosen: NDArray[np.bool_], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of the weights chosen in each row of ``chosen`` [k, S] -> [k]."""
    patterns, rows = np.unique(chosen, axis=0, return_inverse=True)
    return np.array([weights[pattern].sum() for pattern in patterns])[rows.reshape(-1)]
