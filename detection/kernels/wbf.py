"""The compiled loops of weighted boxes fusion. Import it on first use only: it loads numba."""

import numpy as np
from numba import njit

from detection.kernels.compiled import compiled, sort_descending

AVG, MAX, BOX_AND_MODEL_AVG, ABSENT_MODEL_AWARE_AVG, OVERFLOWING_AVG = range(5)
CELLS = 16  # rows and columns of the grid in which clusters are looked up
FEW = 32  # boxes of a label: as many are searched one by one


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
    n = 0
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
    return -1, taken, taken_scores, taken_labels, members, n


@njit
def _overlaps_more(box, fused, areas, cluster, best, match):
    """Whether a cluster's IoU with ``box`` is above ``best``, or as high and it comes before ``match``; the IoU."""
    x1, y1, x2, y2 = box
    width = min(x2, fused[2, cluster]) - max(x1, fused[0, cluster])
    if width <= 0:
        return False, 0.0
    height = min(y2, fused[3, cluster]) - max(y1, fused[1, cluster])
    if height <= 0:
        return False, 0.0
    overlap = width * height
    iou = overlap / (areas[cluster] + (x2 - x1) * (y2 - y1) - overlap)
    return iou > best or (iou == best and cluster < match), iou


@njit
def _cell(low, high):
    """The row or column of the grid that the middle of low..high lies in."""
    return min(max(int((low + high) * (CELLS / 2)), 0), CELLS - 1)


@njit
def _best_match(box, fused, areas, start, end, heads, following, iou_threshold):
    """The cluster of start..end whose IoU with ``box`` is highest and above the threshold; of equals the first, or -1.

    box: 4 numbers; fused [4, clusters]. heads [CELLS, CELLS] (empty: no grid): a cluster of each cell; following
    [clusters]: the next one of its cell; -1 for none.

    Where there is a grid, only clusters whose middles are near enough are looked at. Boxes' sides have no lower an IoU
    than the boxes. Intervals of lengths a and b with an IoU above t have b < a / t, and middles less than
    (a + b) / 2 * (1 - t) / (1 + t) apart, or (b - a) / 2 where one holds the other: less than a * (1 - t) / (2 * t).
    """
    match, best = -1, iou_threshold
    if not len(heads):
        for cluster in range(start, end):
            better, iou = _overlaps_more(box, fused, areas, cluster, best, match)
            if better:
                match, best = cluster, iou
        return match
    x1, y1, x2, y2 = box
    apart = (1 - iou_threshold) / (2 * iou_threshold)
    far_x, far_y = (x2 - x1) * apart + 1e-6, (y2 - y1) * apart + 1e-6  # with room for rounding
    for row in range(_cell(y1 - far_y, y2 - far_y), _cell(y1 + far_y, y2 + far_y) + 1):
        for column in range(_cell(x1 - far_x, x2 - far_x), _cell(x1 + far_x, x2 + far_x) + 1):
            cluster = heads[row, column]
            while cluster >= 0:
                better, iou = _overlaps_more(box, fused, areas, cluster, best, match)
                if better:
                    match, best = cluster, iou
                cluster = following[cluster]
    return match


@njit
def _place(cluster, new, fused, places, heads, following, before):
    """Puts a cluster into its cell of the grid, out of the one it was in; places [clusters, 2], before [clusters]."""
    row, column = _cell(fused[1, cluster], fused[3, cluster]), _cell(fused[0, cluster], fused[2, cluster])
    if not new:
        if places[cluster, 0] == row and places[cluster, 1] == column:
            return
        last, next_one = before[cluster], following[cluster]
        if last >= 0:
            following[last] = next_one
        else:
            heads[places[cluster, 0], places[cluster, 1]] = next_one
        if next_one >= 0:
            before[next_one] = last
    places[cluster, 0], places[cluster, 1] = row, column
    before[cluster], following[cluster] = -1, heads[row, column]
    if heads[row, column] >= 0:
        before[heads[row, column]] = cluster
    heads[row, column] = cluster


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
    fused, areas, sums = np.empty((4, n)), np.empty(n), np.empty((n, 4), np.float32)
    first_rows, counts = np.empty(n, np.int64), np.zeros(n, np.int64)
    score_sums, weight_sums, present = np.zeros(n), np.zeros(n), np.zeros((n, len(weights)), np.bool_)
    spare = np.empty(n, np.int64)
    grid, places = np.empty((CELLS, CELLS), np.int64), np.empty((n, 2), np.int64)
    following, before = np.empty(n, np.int64), np.empty(n, np.int64)

    k = 0
    for group in range(len(group_starts) - 1):
        first_cluster = k
        begin, end = group_starts[group], group_starts[group + 1]
        heads = grid if end - begin > FEW and iou_threshold > 1e-3 else grid[:0]
        heads[:] = -1
        sort_descending(rows, begin, end, scores, spare)
        for position in range(begin, end):
            row = rows[position]
            box = boxes[0, row], boxes[1, row], boxes[2, row], boxes[3, row]
            match = _best_match(box, fused, areas, first_cluster, k, heads, following, iou_threshold)
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
            areas[match] = (fused[2, match] - fused[0, match]) * (fused[3, match] - fused[1, match])
            if len(heads):
                _place(match, counts[match] == 1, fused, places, heads, following, before)

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
