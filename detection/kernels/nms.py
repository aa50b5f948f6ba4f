"""The compiled loops of post-processing. Import it on first use only: it loads numba."""

import numpy as np
from numba import njit

from detection.kernels.compiled import compiled, sort_descending

ZERO, HALF, INFINITY = np.float32(0), np.float32(0.5), np.float32(np.inf)


@njit
def _promising_rows(logits, start, end, offset, out_rows):
    """Find the rows start..end of logits [n, classes + 1] that may hold a score above the threshold.

    A score is at most 1 / (1 + exp(background - logit)), so most rows need no softmax: ``offset`` is the logit of the
    threshold. Returns how many rows it wrote to out_rows, or -1 where a logit is NaN or +inf.
    """
    found = 0
    for row in range(start, end):
        background = logits[row, 0]
        limit = background + offset - np.float32(1e-3) - np.float32(1e-6) * abs(background)  # room for rounding
        above, finite = np.int32(0), np.int32(background < INFINITY)
        for i in range(1, logits.shape[1]):
            above += np.int32(logits[row, i] > limit)
            finite += np.int32(logits[row, i] < INFINITY)
        if finite < logits.shape[1]:
            return -1
        if above or background == -INFINITY:  # a row of -inf only, too: its softmax is NaN
            out_rows[found] = row
            found += 1
    return found


@njit
def softmax(logits, out_scores):
    """Softmax of logits [classes + 1], background first, in float32; out_scores has the same shape."""
    highest = logits[0]
    for i in range(1, len(logits)):
        highest = max(highest, logits[i])
    total = ZERO
    for i in range(len(logits)):
        out_scores[i] = np.exp(logits[i] - highest)
        total += out_scores[i]
    for i in range(len(logits)):
        out_scores[i] /= total


@njit
def _decode(deltas, default_box, coding, out_box):
    """One box, as ``box_coding.decode``; returns whether it is finite."""
    (centre_variance, size_variance, largest), finite = coding, True
    for axis in range(2):
        centre = default_box[axis] + deltas[axis] * centre_variance * default_box[axis + 2]
        log_scale = deltas[axis + 2] * size_variance
        half = HALF * default_box[axis + 2] * np.exp(largest if log_scale > largest else log_scale)  # NaN stays NaN
        out_box[axis], out_box[axis + 2] = centre - half, centre + half
        finite &= np.isfinite(centre) and np.isfinite(half)
    return finite


@njit
def _suppress(rows, start, end, boxes, iou_threshold, out_rows, kept):
    """Greedy suppression, as ``torchvision.ops.nms``: appends to out_rows[kept:] and returns the new ``kept``.

    rows[start:end] are rows of boxes [n, 4] float32 by falling score. A row goes if its IoU with a row that stays is
    strictly above the threshold; IoU is computed in float32, as torchvision does.
    """
    first = kept
    for position in range(start, end):
        row = rows[position]
        x1, y1, x2, y2 = boxes[row, 0], boxes[row, 1], boxes[row, 2], boxes[row, 3]
        area = (x2 - x1) * (y2 - y1)
        stays = True
        for i in range(first, kept):
            best = out_rows[i]
            width = max(min(x2, boxes[best, 2]) - max(x1, boxes[best, 0]), ZERO)
            height = max(min(y2, boxes[best, 3]) - max(y1, boxes[best, 1]), ZERO)
            overlap = width * height
            if overlap > 0:
                best_area = (boxes[best, 2] - boxes[best, 0]) * (boxes[best, 3] - boxes[best, 1])
                if overlap / (best_area + area - overlap) > iou_threshold:
                    stays = False
                    break
        if stays:
            out_rows[kept] = row
            kept += 1
    return kept


@njit
def _best_boxes(
    start, n, labels, scores, boxes, num_classes, per_class, iou_threshold, limit, out_boxes, out_scores, out_labels
):  # fmt: skip
    """Of one picture: the ``per_class`` best of each class, suppression, the ``limit`` best of all.

    The picture holds rows start to start + n of labels [n], scores [n] and boxes [n, 4] xyxy. Equal scores are taken by
    class, then in the rows' order. Writes by falling score; returns the number.
    """
    class_ends = np.zeros(num_classes + 1, np.int64)
    for i in range(start, start + n):
        class_ends[labels[i] + 1] += 1
    for label in range(num_classes):
        class_ends[label + 1] += class_ends[label]
    rows, spare, kept_rows = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    for i in range(start, start + n):  # a class's end moves from its start to the next one's
        label = labels[i]
        rows[class_ends[label]] = i
        class_ends[label] += 1
    kept, begin = 0, 0
    for label in range(num_classes):
        stop = class_ends[label]
        sort_descending(rows, begin, stop, scores, spare)
        kept = _suppress(rows, begin, min(stop, begin + per_class), boxes, iou_threshold, kept_rows, kept)
        begin = stop
    sort_descending(kept_rows, 0, kept, scores, spare)
    kept = min(kept, limit)
    for i in range(kept):
        row = kept_rows[i]
        out_scores[i], out_labels[i] = scores[row], labels[row]
        for side in range(4):
            out_boxes[i, side] = boxes[row, side]
    return kept


RESULTS = "Tuple((float32[:, :, ::1], float32[:, ::1], int64[:, ::1], int64[::1]))"  # boxes, scores, labels, counts


@compiled(
    f"boolean(int64[::1], int64[::1], float32[::1], float32[:, ::1], int64, int64, float64, {RESULTS}, int64, int64)"
)
def best_of_selected(starts, labels, scores, boxes, num_classes, per_class, iou_threshold, results, first, end):
    """``_best_boxes`` of pictures first..end of P, which hold rows starts[p] to starts[p + 1]; starts [P + 1].

    results: boxes [P, limit, 4], scores [P, limit], labels [P, limit], counts [P]. Returns True.
    """
    out_boxes, out_scores, out_labels, out_counts = results
    limit = out_scores.shape[1]
    for p in range(first, end):
        start, n = starts[p], starts[p + 1] - starts[p]
        out = out_boxes[p], out_scores[p], out_labels[p]
        out_counts[p] = _best_boxes(start, n, labels, scores, boxes, num_classes, per_class, iou_threshold, limit, *out)
    return True


@compiled(
    "boolean(float32[:, ::1], float32[:, ::1], float32[:, ::1], UniTuple(float32, 3), float32, float32, int64, "
    f"float64, {RESULTS}, int64, int64)"
)
def best_of_outputs(
    deltas, logits, default_boxes, coding, threshold, offset, per_class, iou_threshold, results, first, end
):  # fmt: skip
    """The same of the network's outputs: of boxes whose score is strictly above the threshold.

    deltas [P * A, 4], logits [P * A, classes + 1], default_boxes [A, 4] cxcywh; ``offset`` is the threshold's logit.
    ``coding``: the centres' and sizes' variance and the largest log scale (constants would stay as they were in numba's
    cache).
    Returns whether all logits (but for -inf) and all boxes above the threshold are finite.
    """
    out_boxes, out_scores, out_labels, out_counts = results
    num_boxes, num_classes, limit, finite = len(default_boxes), logits.shape[1] - 1, out_scores.shape[1], True
    rows, row_scores = np.empty(num_boxes, np.int64), np.empty(num_classes + 1, np.float32)
    box = np.empty(4, np.float32)
    # Scores above the threshold: a row's sum is 1, but for rounding.
    per_row = int(min(float(num_classes), 1 + (1 + 1e-6 * num_classes) / threshold))
    for p in range(first, end):
        found, n = _promising_rows(logits, p * num_boxes, (p + 1) * num_boxes, offset, rows), 0
        if found < 0:
            return False
        most = found * per_row
        labels, scores, boxes = np.empty(most, np.int64), np.empty(most, np.float32), np.empty((most, 4), np.float32)
        for i in range(found):
            softmax(logits[rows[i]], row_scores)
            finite &= np.isfinite(row_scores[0])
            begin = n
            for label in range(num_classes):
                if row_scores[label + 1] > threshold:
                    if n == begin:
                        finite &= _decode(deltas[rows[i]], default_boxes[rows[i] - p * num_boxes], coding, box)
                    labels[n], scores[n] = label, row_scores[label + 1]
                    for side in range(4):
                        boxes[n, side] = box[side]
                    n += 1
        out = out_boxes[p], out_scores[p], out_labels[p]
        out_counts[p] = _best_boxes(0, n, labels, scores, boxes, num_classes, per_class, iou_threshold, limit, *out)
    return finite
