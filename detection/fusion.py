"""Weighted boxes fusion (Solovyev et al., 2021): boxes of several detectors averaged into one set.

A drop-in for ``ensemble_boxes.weighted_boxes_fusion`` 1.0.9, equal to it bit for bit, but for the order of boxes whose
fused scores are equal, and for what goes wrong there: clusters of zero score (NaN there) and labels above 2^24 (float32
there).
"""

import math
from collections.abc import Sequence
from typing import NoReturn, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detection.settings import ConfType


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
    weights = _checked_weights(weights, len(boxes_list))
    if math.isnan(skip_box_thr):
        raise ValueError("skip_box_thr is nan; it must be a number")
    boxes, scores, labels, counts, thresholds, dtype = _gather(boxes_list, scores_list, labels_list, skip_box_thr)
    boxes, scores, labels, (found,) = fuse_images(
        boxes, scores, labels, counts[None], weights, thresholds, iou_thr, conf_type, allows_overflow
    )
    return boxes[:found], scores[:found], labels[:found].astype(dtype, copy=False)


def fuse_images(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    counts: NDArray[np.int64],
    weights: NDArray[np.float64],
    thresholds: NDArray[np.float64],
    iou_thr: float,
    conf_type: ConfType,
    allows_overflow: bool = False,
    threads: int = 1,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Fuse each of N images as ``weighted_boxes_fusion`` does, ``threads`` of them at a time, with equal results.

    boxes [n, 4], scores [n], labels [n], all contiguous: image by image, and within an image member by member;
    counts [N, S]: how many each image's members have. weights [S]; thresholds [S]: ``skip_box_thr`` for each member.

    Returns boxes [n, 4], scores [n], labels [n], found [N]: the ``found[i]`` fused boxes of image i begin where its
    own boxes began; the rows between are not set.

    Raises ValueError as ``weighted_boxes_fusion``, but for shapes, labels and weights, which are not checked.
    """
    if conf_type not in get_args(ConfType):
        raise ValueError(f"conf_type is {conf_type!r}; it must be one of {', '.join(get_args(ConfType))}")
    if not 0 <= iou_thr <= 1:
        raise ValueError(f"iou_thr is {iou_thr}; it must lie in 0..1")
    from detection.kernels import compiled as _compiled  # here, because numba takes long to import
    from detection.kernels import wbf as _fusion_kernel

    overflows = allows_overflow and conf_type == "avg"
    rule = _fusion_kernel.OVERFLOWING_AVG if overflows else get_args(ConfType).index(conf_type)
    starts = np.zeros(counts.size + 1, np.int64)
    counts.cumsum(out=starts[1:])
    results = np.empty_like(boxes), np.empty_like(scores), np.empty_like(labels), np.empty(len(counts), np.int64)
    inputs = boxes, scores, labels, starts, thresholds, weights, float(iou_thr), rule

    def work(first: int, end: int) -> int:
        return _fusion_kernel.fuse_images(first, end, *inputs, *results)

    for row in _compiled.in_threads(work, len(counts), threads):
        if row >= 0:
            member = int(starts.searchsorted(row, "right") - 1) % len(weights)
            _refuse(member, boxes[row], scores[row])
    return results


def _checked_weights(weights: ArrayLike | None, num_members: int) -> NDArray[np.float64]:
    if weights is None:
        return np.ones(num_members)
    weights = np.array(weights, dtype=np.float64)
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
) -> tuple[NDArray, NDArray, NDArray, NDArray, NDArray, np.dtype]:
    """The members' boxes, scores and labels as ``fuse_images`` wants them; counts, thresholds [S]; labels' dtype."""
    num_members = len(boxes_list)
    if not num_members == len(scores_list) == len(labels_list):
        raise ValueError(
            f"boxes of {num_members} members, scores of {len(scores_list)} and labels of {len(labels_list)}: "
            "the three lists need one entry per member"
        )
    filled, counts, thresholds = [], np.zeros(num_members, np.int64), np.full(num_members, threshold, np.float64)
    for member, (boxes, scores, labels) in enumerate(zip(boxes_list, scores_list, labels_list, strict=True)):
        boxes, scores, labels = np.asarray(boxes), np.asarray(scores), np.asarray(labels)
        count = len(boxes) if boxes.size else 0
        if (count and boxes.shape != (count, 4)) or scores.shape != (count,) or labels.shape != (count,):
            raise ValueError(
                f"member {member}: boxes {boxes.shape}, scores {scores.shape} and labels {labels.shape}; "
                "they must be [n, 4], [n] and [n]"
            )
        if not count:
            continue
        counts[member] = count
        if scores.dtype.kind == "f" and scores.dtype != np.float64:
            thresholds[member] = scores.dtype.type(threshold)  # compared in the scores' own precision
        filled.append((boxes, scores, labels if labels.dtype.kind in "iu" else _whole(member, labels)))
    if not filled:
        return np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), counts, thresholds, np.dtype(np.int64)
    boxes, scores, labels = zip(*filled, strict=True)
    return (
        np.ascontiguousarray(np.concatenate(boxes, dtype=np.float64)),  # columns may lie one after the other
        np.concatenate(scores, dtype=np.float64),
        np.concatenate(labels, dtype=np.int64, casting="unsafe"),
        counts,
        thresholds,
        _label_type(labels),
    )


def _label_type(labels: Sequence[NDArray]) -> np.dtype:
    found = np.result_type(*labels)
    return found if found.kind in "iu" else np.dtype(np.int64)  # uint64 beside int64 would be float64


def _whole(member: int, labels: NDArray) -> NDArray[np.int64]:
    if labels.dtype.kind not in "fb":
        raise ValueError(f"member {member}: labels are {labels.dtype}; they must be whole numbers")
    wrong = ~((np.rint(labels) == labels) & (abs(labels.astype(np.float64)) < 2.0**63))
    if wrong.any():
        raise ValueError(f"member {member}: label {labels[wrong][0]}; labels must be whole numbers of 64 bits")
    return labels.astype(np.int64)


def _refuse(member: int, box: NDArray[np.float64], score: float) -> NoReturn:
    outside = box[~((box >= -1) & (box <= 2))]  # comparisons with NaN are false
    if len(outside):
        raise ValueError(
            f"member {member}: coordinate {outside[0]}; boxes must be fractions of the image (0..1), not pixels"
        )
    raise ValueError(f"member {member}: score {score}; scores must be finite and not negative")
