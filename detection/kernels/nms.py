"""The compiled pass from raw outputs to each member's boxes. Import it on first use only: it loads numba."""

import numpy as np
from numba import njit

from detection.kernels.compiled import compiled

ZERO, HALF, INFINITY = np.float32(0), np.float32(0.5), np.float32(np.inf)


@njit
def _promising_rows(logits, offset, out_rows):
    """Find the rows of logits [A, C + 1] that may hold a score above the threshold, whose logit is ``offset``.

    A score is at most 1 / (1 + exp(background - logit)), so most rows of a trained detector need no softmax; with
    softmax of all rows, the whole pass takes 16 times as long. Returns how many rows it wrote to out_rows, or -1 where
    a logit is NaN or +inf.
    """
    found = 0
    for row in range(len(logits)):
        background = logits[row, 0]
        limit = background + offset - np.float32(1e-3) - np.float32(1e-6) * abs(background)  # room for rounding
        above, finite = np.int32(0), np.int32(background < INFINITY)
        for i in range(1, logits.shape[1]):
            above += np.int32(logits[row, i] > limit)
            finite += np.int32(logits[row, i] < INFINITY)
        if finite < logits.shape[1]:
            return -1
        if above or background == -INFINITY:  # the softmax of a row of -inf is NaN, and found by the caller
            out_rows[found] = row
            found += 1
    return found


@njit
def softmax(logits, out_scores):
    """Softmax of logits [C + 1] in float32."""
    highest, total = logits.max(), ZERO
    for i in range(len(logits)):
        out_scores[i] = np.exp(logits[i] - highest)
        total += out_scores[i]
    for i in range(len(logits)):
        out_scores[i] /= total


@njit
def _decode(deltas, default_box, coding, out_box):
    """Decode a box as ``box_coder.decode`` does; return whether it is finite."""
    (center_variance, size_variance, max_log_scale), finite = coding, True
    for axis in range(2):
        center = default_box[axis] + deltas[axis] * center_variance * default_box[axis + 2]
        log_scale = deltas[axis + 2] * size_variance
        half = HALF * default_box[axis + 2] * np.exp(max_log_scale if log_scale > max_log_scale else log_scale)
        out_box[axis], out_box[axis + 2] = center - half, center + half
        finite &= np.isfinite(center) and np.isfinite(half)
    return finite


@njit
def _iou(a, b):
    """IoU in float32 and torchvision's order of arithmetic."""
    width, height = max(min(a[2], b[2]) - max(a[0], b[0]), ZERO), max(min(a[3], b[3]) - max(a[1], b[1]), ZERO)
    overlap = width * height
    if overlap == 0:  # also of two boxes without area
        return ZERO
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


@compiled
def best_boxes(
    first, end, deltas, logits, default_boxes, coding, threshold, offset, per_class, iou_threshold,
    out_boxes, out_scores, out_labels, out_counts,
):  # fmt: skip
    """Find the boxes of pictures first..end of P, as ``postprocess.member_boxes`` does; a picture is a member's image.

    deltas [P, A, 4], logits [P, A, C + 1], default_boxes [A, 4] cxcywh; coding: variance of centers, variance of sizes,
    largest log scale; ``offset`` is the threshold's logit. All of these are float32.

    Writes out_boxes [P, limit, 4], out_scores [P, limit] and out_labels [P, limit] by falling score, and their number
    to out_counts [P]: -1 where a logit is NaN or +inf, or a box that may be above the threshold is not finite.
    """
    num_boxes, num_classes, limit = len(default_boxes), logits.shape[2] - 1, out_scores.shape[1]
    rows, row_scores = np.empty(num_boxes, np.int64), np.empty(num_classes + 1, np.float32)
    previous, buffer = np.empty(limit, np.int64), np.empty(num_classes * num_boxes, np.float32)
    for picture in range(first, end):
        found = _promising_rows(logits[picture], offset, rows)
        finite = found >= 0
        scores = buffer[: num_classes * max(found, 0)].reshape((num_classes, max(found, 0)))
        boxes = np.empty((max(found, 0), 4), np.float32)
        for i in range(found):
            softmax(logits[picture, rows[i]], row_scores)
            finite &= np.isfinite(row_scores[0])
            finite &= _decode(deltas[picture, rows[i]], default_boxes[rows[i]], coding, boxes[i])
            scores[:, i] = row_scores[1:]
        if not finite:
            out_counts[picture] = -1
            continue

        candidates = np.flatnonzero(scores > threshold)  # by class, then default box: so ties come in this order
        candidates = candidates[np.argsort(-scores.ravel()[candidates], kind="mergesort")]
        # Kept boxes of a class are a linked list: last[label], previous[last[label]], ...
        kept, last, visited = 0, np.full(num_classes, -1), np.zeros(num_classes, np.int64)
        for candidate in candidates:
            if kept == limit:
                break
            label, i = candidate // found, candidate % found
            visited[label] += 1
            if visited[label] > per_class:
                continue
            other = last[label]
            while other >= 0 and _iou(out_boxes[picture, other], boxes[i]) <= iou_threshold:
                other = previous[other]
            if other < 0:
                out_boxes[picture, kept] = boxes[i]
                out_scores[picture, kept], out_labels[picture, kept] = scores[label, i], label
                previous[kept], last[label] = last[label], kept
                kept += 1
        out_counts[picture] = kept


@compiled
def suppress(first, end, starts, boxes, scores, labels, num_classes, threshold, iou_threshold, limit, out_kept):
    """Suppress boxes of pictures first..end that overlap a better one of their class by more than ``iou_threshold``.

    Picture p has the rows starts[p] to starts[p + 1] - 1, by falling score, of boxes [n, 4], scores [n] and labels [n].
    IoU is computed in the boxes' precision. Writes out_kept, bool [n]: of scores above ``threshold``, at most ``limit``
    of each picture.
    """
    last = np.empty(num_classes, np.int64)
    for picture in range(first, end):
        start, n = starts[picture], starts[picture + 1] - starts[picture]
        kept, previous = 0, np.empty(n, np.int64)  # linked lists, as above
        last[:] = -1
        for i in range(n):
            row = start + i
            if kept == limit or scores[row] <= threshold:
                out_kept[row : start + n] = False
                break
            other = last[labels[row]]
            while other >= 0 and _iou(boxes[start + other], boxes[row]) <= iou_threshold:
                other = previous[other]
            out_kept[row] = other < 0
            if other < 0:
                previous[i], last[labels[row]] = last[labels[row]], i
                kept += 1
