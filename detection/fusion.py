"""Weighted boxes fusion (Solovyev et al., 2021): boxes of several detectors averaged into one set.

A drop-in for ``ensemble_boxes.weighted_boxes_fusion`` 1.0.9, with bit-equal results. Exceptions: boxes of equal fused
score may come in another order, clusters of zero score are not NaN, and labels above 2^24 are not rounded.
"""

import math
from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detection.prediction_settings import ConfType, FusionMethod
from divdet.engine.errors import UserError


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

    Boxes of one label are visited by falling score (times the member's weight). Each joins the cluster whose box it
    overlaps most, if that IoU is strictly above ``iou_thr``, or else opens a cluster. A cluster's box is the mean of
    its boxes, weighted by score. Equal scores are visited by member, then in the boxes' order; equal fused scores come
    by label, then by which cluster opened first.

    Args:
        boxes_list: per member [n, 4] (x1, y1, x2, y2) as fractions of the image. Boxes are clipped to [0, 1], swapped
            corners are put right, boxes without area are dropped. A member without boxes may be an empty list.
        scores_list: per member [n], not negative.
        labels_list: per member [n] integers.
        weights: per member, not negative, not all zero; None means 1 each. A box of weight 0 neither moves a box nor
            adds score: a cluster of only such boxes has score 0.
        iou_thr: 0 to 1.
        skip_box_thr: boxes whose unweighted score is lower are left out.
        conf_type: how a cluster of n boxes is scored. W is the sum of all weights, s the sum of the cluster's scores.
            "avg": s / n * min(n, S) / W; "max": the highest score / the highest weight;
            "box_and_model_avg": s / (sum of the boxes' weights) * (weights of the members present) / W;
            "absent_model_aware_avg": s / (sum of the boxes' weights + weights of the members absent).
        allows_overflow: score "avg" by s / W, which may exceed 1.

    Returns:
        Boxes [k, 4] float64 in [0, 1], scores [k] float64 descending, labels [k] in the labels' integer dtype (int64
        for lists, for whole numbers stored as floats, and where there are none).

    Raises:
        ValueError: for lists of different lengths, values that are not finite, coordinates below -1 or above 2
            (pixels), labels that are not whole numbers, negative scores that pass ``skip_box_thr``, bad weights or
            options.
    """
    weights = np.ones(len(boxes_list)) if weights is None else np.array(weights, dtype=np.float64)
    if weights.shape != (len(boxes_list),):
        raise ValueError(f"weights has shape {weights.shape}; {len(boxes_list)} members need {len(boxes_list)} weights")
    if len(weights) and not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError(f"weights are {weights.tolist()}; they must be finite, not negative, and not all zero")
    if math.isnan(skip_box_thr):
        raise ValueError("skip_box_thr is nan; it must be a number")
    boxes, scores, labels, counts, thresholds, dtype = _concatenate(boxes_list, scores_list, labels_list, skip_box_thr)
    ((boxes, scores, labels),) = fuse_images(
        boxes, scores, labels, counts[None], weights, thresholds, iou_thr, conf_type, allows_overflow
    )
    return boxes, scores, labels.astype(dtype, copy=False)


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
) -> list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]]:
    """Fuse a batch of N images as ``weighted_boxes_fusion`` does, in one call.

    Args:
        boxes, scores, labels: contiguous [n, 4], [n], [n]: image by image, and within an image member by member.
        counts: [N, S], how many boxes each member has on each image.
        weights: [S].
        thresholds: [S], ``skip_box_thr`` of each member.
        iou_thr, conf_type, allows_overflow: see ``weighted_boxes_fusion``.
        threads: how many threads share the images; the results do not depend on it.

    Returns:
        Boxes [k, 4], scores [k] and labels [k] of each image.

    Raises:
        ValueError: as ``weighted_boxes_fusion``, but shapes, labels and weights are not checked.
    """
    if conf_type not in get_args(ConfType):
        raise ValueError(f"conf_type is {conf_type!r}; it must be one of {', '.join(get_args(ConfType))}")
    if not 0 <= iou_thr <= 1:
        raise ValueError(f"iou_thr is {iou_thr}; it must lie in 0..1")
    from detection.kernels import compiled, wbf  # imported here, because numba takes long to import

    num_images, num_members = counts.shape
    members = np.tile(np.arange(num_members), num_images).repeat(counts.ravel())
    images = np.arange(num_images).repeat(counts.sum(1))
    _check_values(boxes, scores, members, thresholds)
    order = np.lexsort((-scores * weights[members], labels, images))  # stable
    starts = np.concatenate(([0], counts.sum(1).cumsum()))
    rule = wbf.OVERFLOWING_AVG if allows_overflow and conf_type == "avg" else get_args(ConfType).index(conf_type)
    inputs = starts, order, boxes, scores, labels, members, weights, thresholds, float(iou_thr), rule
    fused, found = (np.empty_like(boxes), np.empty_like(scores), np.empty_like(labels)), np.empty(num_images, np.int64)

    def work(first: int, end: int) -> None:
        wbf.fuse_images(first, end, *inputs, *fused, found)

    compiled.in_threads(work, num_images, threads)
    results = []
    for start, count in zip(starts[:-1].tolist(), found.tolist(), strict=True):
        boxes, scores, labels = (column[start : start + count] for column in fused)
        order = np.argsort(-scores, kind="stable")
        results.append((boxes[order], scores[order], labels[order]))
    return results


def fuse_by_method(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    counts: NDArray[np.int64],
    *,
    method: FusionMethod,
    weights: Sequence[float] | None,
    iou_thr: float,
    skip_box_thr: float,
    conf_type: ConfType,
    threads: int = 1,
) -> list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]]:
    """Fuse a batch of images, like ``fuse_images``, by any method: see ``detection.prediction_settings.FusionRule``.

    Scores are ensemble-boxes': with weights, those of nms and soft_nms are times w / Σw, those of nmw times w / max w.

    Raises:
        UserError: if the weights are not one for each member.
    """
    num_members = counts.shape[1]
    if weights is not None and len(weights) != num_members:
        raise UserError(f"{len(weights)} weights for {num_members} members: give one for each")
    if method != "wbf":
        from detection.library_fusion import fuse_by_library  # seldom used

        return fuse_by_library(boxes, scores, labels, counts, method, weights, iou_thr, skip_box_thr)
    own = np.ones(num_members) if weights is None else np.array(weights, np.float64)
    thresholds = np.full(num_members, skip_box_thr, np.float64)
    return fuse_images(boxes, scores, labels, counts, own, thresholds, iou_thr, conf_type, threads=threads)


def _check_values(boxes: NDArray, scores: NDArray, members: NDArray, thresholds: NDArray) -> None:
    """Raise ValueError for the first coordinate outside -1..2, or score that is neither finite nor left out."""
    low, high = boxes.min(initial=0), boxes.max(initial=0)
    if low >= -1 and high <= 2 and scores.min(initial=0) >= 0 and scores.max(initial=0) < np.inf:
        return  # the usual case; comparisons with NaN are false
    for row, column in np.argwhere(~((boxes >= -1) & (boxes <= 2)))[:1]:
        raise ValueError(
            f"member {members[row]}: coordinate {boxes[row, column]}; "
            "boxes must be fractions of the image (0..1), not pixels"
        )
    for row in np.flatnonzero(~np.isfinite(scores) | ((scores < 0) & (scores >= thresholds[members])))[:1]:
        raise ValueError(f"member {members[row]}: score {scores[row]}; scores must be finite and not negative")


def _concatenate(
    boxes_list: Sequence[ArrayLike],
    scores_list: Sequence[ArrayLike],
    labels_list: Sequence[ArrayLike],
    threshold: float,
) -> tuple[NDArray, NDArray, NDArray, NDArray, NDArray, np.dtype]:
    """Return boxes, scores, labels, counts [S] and thresholds [S] for ``fuse_images``, and the labels' own dtype."""
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
        if scores.dtype.kind == "f":
            thresholds[member] = scores.dtype.type(threshold)  # compared in the scores' own precision
        filled.append((boxes, scores, labels if labels.dtype.kind in "iu" else _whole(member, labels)))
    if not filled:
        return np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), counts, thresholds, np.dtype(np.int64)
    boxes, scores, labels = zip(*filled, strict=True)
    dtype = np.result_type(*labels)
    return (
        np.ascontiguousarray(np.concatenate(boxes, dtype=np.float64)),  # transposed boxes stay so when concatenated
        np.concatenate(scores, dtype=np.float64),
        np.concatenate(labels, dtype=np.int64, casting="unsafe"),
        counts,
        thresholds,
        dtype if dtype.kind in "iu" else np.dtype(np.int64),  # int64 and uint64 together give float64
    )


def _whole(member: int, labels: NDArray) -> NDArray[np.int64]:
    """Labels that are stored as floats or booleans, as integers."""
    if labels.dtype.kind not in "fb":
        raise ValueError(f"member {member}: labels are {labels.dtype}; they must be whole numbers")
    wrong = ~((np.rint(labels) == labels) & (abs(labels.astype(np.float64)) < 2.0**63))
    if wrong.any():
        raise ValueError(f"member {member}: label {labels[wrong][0]}; labels must be whole numbers of 64 bits")
    return labels.astype(np.int64)
