"""The compiled loops of post-processing. Import it on first use only: it loads numba."""

import numpy as np
from numba import njit

from detection._compiled import compiled, sort_descending


@compiled("int64(int64, int64, float32[:, ::1], float32, int64[::1])")
def promising_rows(first, end, logits, offset, out_rows):
    """Find the rows first..end of logits [n, classes + 1] that may hold a score above the threshold.

    A score is at most 1 / (1 + exp(background - logit)), so most rows need no softmax: ``offset`` is the logit of the
    threshold. Writes the rows from out_rows[first] on and returns their number, or -1 where a logit is NaN or +inf.
    """
    found = first
    for row in range(first, end):
        background = logits[row, 0]
        limit = background + offset - np.float32(1e-3) - np.float32(1e-6) * abs(background)  # room for rounding
        above, finite = np.int32(0), np.int32(background < np.inf)
        for i in range(1, logits.shape[1]):
            above += np.int32(logits[row, i] > limit)
            finite += np.int32(logits[row, i] < np.float32(np.inf))
        if finite < logits.shape[1]:
            return -1
        if above or background == -np.inf:
            out_rows[found] = row
            found += 1
    return found - first


@compiled("boolean(int64, int64, float32[:, ::1], int64[::1], float32, float32[:, ::1], int64[::1])")
def softmax_rows(first, end, logits, rows, threshold, out_scores, out_counts):
    """Softmax of the rows rows[first:end] of logits [n, classes + 1], in float32; whether all of it is finite.

    out_scores [rows, classes] has no background; out_counts [rows]: how many scores are strictly above the threshold.
    """
    finite = True
    for i in range(first, end):
        row, highest = rows[i], logits[rows[i], 0]
        for label in range(1, logits.shape[1]):
            highest = max(highest, logits[row, label])
        background = np.exp(logits[row, 0] - highest)
        total = background
        for label in range(out_scores.shape[1]):
            out_scores[i, label] = np.exp(logits[row, label + 1] - highest)
            total += out_scores[i, label]
        out_counts[i] = 0
        for label in range(out_scores.shape[1]):
            out_scores[i, label] /= total
            out_counts[i] += out_scores[i, label] > threshold
        finite &= np.isfinite(background / total)
    return finite


@compiled("void(float32[:, ::1], float32, int64[::1], int64[::1], float32[::1])")
def collect_scores(scores, threshold, out_positions, out_labels, out_scores):
    """The scores [rows, classes] strictly above the threshold, in the order of rows, then labels."""
    found = 0
    for i in range(len(scores)):
        for label in range(scores.shape[1]):
            if scores[i, label] > threshold:
                out_positions[found], out_labels[found], out_scores[found] = i, label, scores[i, label]
                found += 1


@njit
def _suppress(rows, start, end, boxes, iou_threshold, out_rows, kept):
    """Greedy suppression, as ``torchvision.ops.nms``: appends to out_rows[kept:] and returns the new ``kept``.

    rows[start:end] are rows of boxes [n, 4] float32 by falling score. A row goes if its IoU with a row that stays is
    strictly above the threshold; IoU is computed in float32, as torchvision does.
    """
    zero, first = np.float32(0), kept
    for position in range(start, end):
        row = rows[position]
        x1, y1, x2, y2 = boxes[row, 0], boxes[row, 1], boxes[row, 2], boxes[row, 3]
        area = (x2 - x1) * (y2 - y1)
        stays = True
        for i in range(first, kept):
            best = out_rows[i]
            width = max(min(x2, boxes[best, 2]) - max(x1, boxes[best, 0]), zero)
            height = max(min(y2, boxes[best, 3]) - max(y1, boxes[best, 1]), zero)
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


@compiled(
    "void(int64, int64, int64[::1], int64[::1], float32[::1], float32[:, ::1], int64, int64, float64, int64,"
    "int64[::1], int64[::1])"
)
def best_boxes(
    first, end, starts, labels, scores, boxes, num_classes, per_class, iou_threshold, limit, out_rows, out_counts
):  # fmt: skip
    """For pictures first..end of P: the ``per_class`` best of each class, suppression, the ``limit`` best of all.

    labels [n], scores [n], boxes [n, 4] xyxy: picture p holds rows starts[p] to starts[p + 1]; starts [P + 1]. Equal
    scores are taken by class, then in the rows' order. Writes out_counts[p] rows from out_rows[starts[p]] on, by
    falling score.
    """
    for picture in range(first, end):
        start, n = starts[picture], starts[picture + 1] - starts[picture]
        class_ends = np.zeros(num_classes + 1, np.int64)
        for i in range(n):
            class_ends[labels[start + i] + 1] += 1
        for label in range(num_classes):
            class_ends[label + 1] += class_ends[label]
        rows, spare, kept_rows = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
        for i in range(n):  # a class's end moves from its start to the next one's
            label = labels[start + i]
            rows[class_ends[label]] = start + i
            class_ends[label] += 1
        kept, begin = 0, 0
        for label in range(num_classes):
            stop = class_ends[label]
            sort_descending(rows, begin, stop, scores, spare)
            kept = _suppress(rows, begin, min(stop, begin + per_class), boxes, iou_threshold, kept_rows, kept)
            begin = stop
        sort_descending(kept_rows, 0, kept, scores, spare)
        out_counts[picture] = min(kept, limit)
        for i in range(out_counts[picture]):
            out_rows[start + i] = kept_rows[i]
