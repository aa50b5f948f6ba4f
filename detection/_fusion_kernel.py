"""The compiled loops of weighted boxes fusion. Import it on first use only: it loads numba."""

import numpy as np
from numba import njit

from detection._compiled import compiled, sort_descending

AVG, MAX, BOX_AND_MODEL_AVG, ABSENT_MODEL_AWARE_AVG, OVERFLOWING_AVG = range(5)
BLOCK = 16  # clusters that are tested for overlap together, in vector instructions


@njit
def _group(labels, n):
    """Group rows 0..n by label: rows [n], by ascending label and then position, and where groups start [groups + 1]."""
    size = 16
    while size < 2 * n:
        size *= 2
    table = np.zeros(size, np.int64)  # open addressing: a group's number, from 1
    groups, names, counts = np.empty(n, np.int64), np.empty(n, np.int64), np.zeros(n + 1, np.int64)
    num_groups = 0
    for row in range(n):
        label = labels[row]
        slot = (label ^ (label >> 32)) * 0x9E3779B1 >> 8 & (size - 1)
        while table[slot] > 0 and names[table[slot] - 1] != label:
            slot = (slot + 1) & (size - 1)
        if table[slot] == 0:
            names[num_groups] = label
            num_groups += 1
            table[slot] = num_groups
        groups[row] = table[slot] - 1
        counts[groups[row]] += 1

    rows, keys, spare = np.empty(n, np.int64), np.empty(n), np.empty(n, np.int64)
    for group in range(num_groups):
        rows[group], keys[group] = group, -float(names[group])
    sort_descending(rows, 0, num_groups, keys, spare)
    starts, ends = np.zeros(num_groups + 1, np.int64), np.empty(num_groups, np.int64)
    for i in range(num_groups):
        ends[rows[i]] = starts[i]
        starts[i + 1] = starts[i] + counts[rows[i]]
    for row in range(n):
        rows[ends[groups[row]]] = row
        ends[groups[row]] += 1
    return rows, starts


@njit
def _weight_of(weights, present, wanted):
    """The sum of the weights whose ``present`` [S] is ``wanted``, added in the order of ``np.sum`` (up to 128)."""
    chosen, n = np.empty(len(weights)), 0
    for member in range(len(weights)):
        if present[member] == wanted:
            chosen[n] = weights[member]
            n += 1
    whole = n // 8 * 8
    total = 0.0
    if whole:
        for i in range(8, whole):
            chosen[i % 8] += chosen[i]
        total = (chosen[0] + chosen[1]) + (chosen[2] + chosen[3])
        total += (chosen[4] + chosen[5]) + (chosen[6] + chosen[7])
    for i in range(whole, n):
        total += chosen[i]
    return total


@njit
def _take(boxes, scores, labels, starts, thresholds, weights):
    """Check an image's rows; collect those that take part.

    Returns the first bad row or -1; boxes [4, n] with sorted corners, clipped; weighted scores; labels; members; n.
    """
    size = starts[-1] - starts[0]
    taken, taken_scores = np.empty((4, size)), np.empty(size)
    taken_labels, members = np.empty(size, np.int64), np.empty(size, np.int64)
    n, bad = 0, -1
    for member in range(len(weights)):
        for row in range(starts[member], starts[member + 1]):
            score, good = scores[row], np.isfinite(scores[row])
            for side in range(4):
                good &= -1 <= boxes[row, side] <= 2  # comparisons with NaN are false
            for axis in range(2):
                low, high = boxes[row, axis], boxes[row, axis + 2]
                if low > high:
                    low, high = high, low
                taken[axis, n] = min(max(low, 0.0), 1.0)
                taken[axis + 2, n] = min(max(high, 0.0), 1.0)
            area = (taken[2, n] - taken[0, n]) * (taken[3, n] - taken[1, n])
            takes_part = not score < thresholds[member] and area != 0
            if not good or (takes_part and score < 0):
                return row, taken, taken_scores, taken_labels, members, 0
            if takes_part:
                taken_scores[n] = score * weights[member]
                taken_labels[n] = labels[row]
                members[n] = member
                n += 1
    return bad, taken, taken_scores, taken_labels, members, n


@njit
def _best_match(box, fused, areas, coarse, start, size, iou_threshold):
    """The cluster, of ``size`` from ``start`` on, whose IoU with ``box`` is highest and above the threshold.

    Of equals the first; -1 for none. box: 4 numbers; fused [4, clusters]; coarse [5, size] float32: fused boxes, areas
    times t / (1 + t). An IoU is above t where the overlap is above t / (1 + t) times the sum of the areas: blocks
    without a cluster that comes within 1e-6 of that in float32, whose errors are below 5e-7 for boxes in 0..1, are
    passed over.
    """
    x1, y1, x2, y2 = box
    area = (x2 - x1) * (y2 - y1)
    coarse_x1, coarse_y1, coarse_x2, coarse_y2 = np.float32(x1), np.float32(y1), np.float32(x2), np.float32(y2)
    bound, zero = np.float32(area * iou_threshold / (1 + iou_threshold) - 1e-6), np.float32(0)
    match, best_iou = -1, iou_threshold
    for block in range(0, size, BLOCK):  # from 0: an index that may be negative keeps vector instructions away
        stop = min(block + BLOCK, size)
        candidates = np.int32(0)  # a bit for each cluster of the block
        for i in range(block, stop):
            coarse_width = min(coarse_x2, coarse[2, i]) - max(coarse_x1, coarse[0, i])
            coarse_height = min(coarse_y2, coarse[3, i]) - max(coarse_y1, coarse[1, i])
            candidate = np.int32(max(coarse_width, zero) * coarse_height > coarse[4, i] + bound)
            candidates |= candidate << np.int32(i - block)
        if candidates == 0:
            continue
        for i in range(block, stop):
            if not candidates >> (i - block) & 1:
                continue
            cluster = start + i
            width = min(x2, fused[2, cluster]) - max(x1, fused[0, cluster])
            height = min(y2, fused[3, cluster]) - max(y1, fused[1, cluster])
            if width <= 0 or height <= 0:
                continue
            overlap = width * height
            iou = overlap / (areas[cluster] + area - overlap)
            if iou > best_iou:
                match, best_iou = cluster, iou
    return match


@njit
def _cluster_score(rule, highest, score_sum, count, weight_sum, present, weights, total_weight):
    """A cluster's score; ``total_weight`` is for "max" the highest weight, otherwise the sum of all.

    ensemble-boxes holds the mean score and the weight of two or more boxes in float32.
    """
    score = highest if rule == MAX else score_sum / count
    if count > 1:
        score, weight_sum = float(np.float32(score)), float(np.float32(weight_sum))
    if rule == MAX:
        return score / total_weight
    if rule == BOX_AND_MODEL_AVG:
        # Boxes of weight 0 only: the numerator is 0 as well.
        return score * count / weight_sum * _weight_of(weights, present, True) / total_weight if weight_sum > 0 else 0.0
    if rule == ABSENT_MODEL_AWARE_AVG:
        return score * count / (weight_sum + _weight_of(weights, present, False))
    return score * (count if rule == OVERFLOWING_AVG else min(count, len(weights))) / total_weight


@njit
def _fuse(boxes, scores, labels, starts, thresholds, weights, iou_threshold, rule, out_boxes, out_scores, out_labels):
    """One image; see ``fuse_images``. Returns the first bad row or -1, and the number of fused boxes."""
    bad, boxes, scores, labels, members, n = _take(boxes, scores, labels, starts, thresholds, weights)
    rows, group_starts = _group(labels, n)
    fused, areas, coarse, sums = (
        np.empty((4, n)),
        np.empty(n),
        np.empty((5, n), np.float32),
        np.empty((n, 4), np.float32),
    )
    first_rows, counts = np.empty(n, np.int64), np.zeros(n, np.int64)
    score_sums, weight_sums, present = np.zeros(n), np.zeros(n), np.zeros((n, len(weights)), np.bool_)
    spare = np.empty(n, np.int64)

    k = 0
    for group in range(len(group_starts) - 1):
        first_cluster = k
        sort_descending(rows, group_starts[group], group_starts[group + 1], scores, spare)
        for position in range(group_starts[group], group_starts[group + 1]):
            row = rows[position]
            box = boxes[0, row], boxes[1, row], boxes[2, row], boxes[3, row]
            match = _best_match(box, fused, areas, coarse, first_cluster, k - first_cluster, iou_threshold)
            if match < 0:
                match = k
                k += 1
                first_rows[match] = row
                for side in range(4):
                    fused[side, match] = box[side]
                    sums[match, side] = 0
            counts[match] += 1
            score_sums[match] += scores[row]
            weight_sums[match] += weights[members[row]]
            present[match, members[row]] = True
            for side in range(4):
                sums[match, side] = sums[match, side] + scores[row] * box[side]
                # A cluster of zero scores only has no weighted mean: it keeps its first box.
                if counts[match] > 1 and score_sums[match] > 0:
                    fused[side, match] = np.float32(sums[match, side] / score_sums[match])
                coarse[side, match - first_cluster] = fused[side, match]
            areas[match] = (fused[2, match] - fused[0, match]) * (fused[3, match] - fused[1, match])
            coarse[4, match - first_cluster] = areas[match] * iou_threshold / (1 + iou_threshold)

    unsorted, total = np.empty(k), 0.0
    if rule == MAX:
        for weight in weights:
            total = max(total, weight)
    else:
        total = _weight_of(weights, np.ones(len(weights), np.bool_), True)
    for i in range(k):
        rows[i] = i
        unsorted[i] = _cluster_score(
            rule, scores[first_rows[i]], score_sums[i], counts[i], weight_sums[i], present[i], weights, total
        )
    sort_descending(rows, 0, k, unsorted, spare)
    for i in range(k):
        cluster = rows[i]
        for side in range(4):
            out_boxes[i, side] = fused[side, cluster]
        out_scores[i] = unsorted[cluster]
        out_labels[i] = labels[first_rows[cluster]]
    return bad, k


@compiled(
    "int64(int64, int64, float64[:, ::1], float64[::1], int64[::1], int64[::1], float64[::1], float64[::1], float64,"
    "int64, float64[:, ::1], float64[::1], int64[::1], int64[::1])"
)
def fuse_images(
    first, end, boxes, scores, labels, starts, thresholds, weights, iou_threshold, rule, out_boxes, out_scores,
    out_labels, out_counts,
):  # fmt: skip
    """Fuse images first..end of N, each greedily around running weighted means (Solovyev et al., "WBF", Sec. 3).

    boxes [n, 4], scores [n], labels [n]: the rows of image i and member m are starts[i * S + m] to
    starts[i * S + m + 1]; starts [N * S + 1]. thresholds [S]: lower scores of the member are left out. weights [S].
    rule: how scores are computed, one of the constants above.

    An image's result is written from its first row on, by falling score: out_boxes [n, 4], out_scores [n],
    out_labels [n], and out_counts [N] boxes. Returns a row of a coordinate outside -1..2, of a score that is not
    finite or that is negative and not left out, or -1 for none.

    Running sums of coordinates and fused boxes of two or more members are rounded to float32, as in ensemble-boxes.
    """
    members = len(weights)
    for image in range(first, end):
        own = starts[image * members : (image + 1) * members + 1]
        bad, out_counts[image] = _fuse(
            boxes, scores, labels, own, thresholds, weights, iou_threshold, rule,
            out_boxes[own[0] :], out_scores[own[0] :], out_labels[own[0] :],
        )  # fmt: skip
        if bad >= 0:
            return bad
    return -1
