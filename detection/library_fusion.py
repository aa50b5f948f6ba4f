"""NMS, soft-NMS and non-maximum weighted fusion of many images, by ensemble-boxes."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

Fused = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]

_SIGMA, _LOWEST = 0.5, 0.001  # of soft-NMS: ensemble-boxes' defaults


def fuse_by_library(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    counts: NDArray[np.int64],
    method: str,
    weights: Sequence[float] | None,
    iou_thr: float,
    skip_box_thr: float,
) -> list[Fused]:
    """Fuse a batch of images as ``detection.fusion.fuse_by_method`` does, by any method but wbf.

    For nmw, boxes of no score (times weight) are left out: the library divides by their sum.
    """
    fuse = _function(method, weights, iou_thr)
    num_members = counts.shape[1]
    members = np.tile(np.arange(num_members), len(counts)).repeat(counts.ravel())
    ends = counts.sum(1).cumsum()
    boxes = boxes.clip(0, 1)
    usable = (boxes[:, 2:] > boxes[:, :2]).all(1) & (scores >= skip_box_thr)
    if method == "nmw":
        usable &= (scores if weights is None else scores * np.asarray(weights)[members]) > 0
    results = []
    for start, end in zip(ends - counts.sum(1), ends, strict=True):
        rows = start + np.flatnonzero(usable[start:end])
        if not len(rows):
            results.append((np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)))
            continue
        own = [rows[members[rows] == member] for member in range(num_members)]
        found = fuse(*([column[part] for part in own] for column in (boxes, scores, labels)))
        order = np.argsort(-found[1], kind="stable")
        fused_boxes, fused_scores, fused_labels = (np.asarray(column)[order] for column in found)
        results.append((fused_boxes.astype(np.float64), fused_scores.astype(np.float64), fused_labels.astype(np.int64)))
    return results


def _function(
    method: str, weights: Sequence[float] | None, iou_thr: float
) -> Callable[..., tuple[NDArray, NDArray, NDArray]]:
    """What fuses the lists of an image: boxes, scores and labels by member."""
    from ensemble_boxes import nms, non_maximum_weighted  # imported here, because numba takes long to import

    weights = None if weights is None else list(weights)
    if method == "soft_nms":
        return partial(_soft_nms, weights=weights)
    return partial(nms if method == "nms" else non_maximum_weighted, iou_thr=iou_thr, weights=weights)


def _soft_nms(boxes: list[NDArray], scores: list[NDArray], labels: list[NDArray], weights: list[float] | None) -> Fused:
    """Gaussian soft-NMS with the lowered scores, which ``ensemble_boxes.soft_nms`` 1.0.9 computes and does not return.

    Its boxes with their first scores are duplicates at full score: see docs/fusion.md for what that costs.
    """
    from ensemble_boxes.ensemble_boxes_nms import cpu_soft_nms_float

    if weights is not None:
        scores = [own * weight / sum(weights) for own, weight in zip(scores, weights, strict=True)]
    all_boxes, all_scores, all_labels = map(np.concatenate, (boxes, scores, labels))
    parts = []
    for label in np.unique(all_labels):
        rows = np.flatnonzero(all_labels == label)
        lowered = all_scores[rows]  # a copy, which the library lowers and reorders along with the boxes
        kept = cpu_soft_nms_float(all_boxes[rows], lowered, Nt=0.0, sigma=_SIGMA, thresh=_LOWEST, method=2)
        parts.append((all_boxes[rows[kept]], lowered[lowered > _LOWEST], all_labels[rows[kept]]))
    columns = zip(*parts, strict=True)
    return tuple(map(np.concatenate, columns))
