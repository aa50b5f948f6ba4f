"""The compiled loop of weighted boxes fusion. Import it on first use only: it loads numba."""

import numpy as np
from numba import njit

from detection.kernels.compiled import compiled

AVG, MAX, BOX_AND_MODEL_AVG, ABSENT_MODEL_AWARE_AVG, OVERFLOWING_AVG = range(5)
# Clusters are searched in a grid of 16 x 16 cells by their centers. Without it, fusing 4 x 500 boxes of one class takes
# 8 times as long (13 times as fast as ensemble-boxes instead of 101); with 32 strips in place of cells, 3 times.
CELLS = 16


@njit
def _cell(x):
    """The row or column of the grid that a coordinate lies in."""
    return int(min(max(x, 0.0), 1.0) * (CELLS - 1))


@njit
def _sum(weights):
    """Sum float64 values in the order of ``np.sum`` (up to 128 values): for results equal to the last bit."""
    lanes, whole = np.zeros(8), len(weights) // 8 * 8
    for i in range(whole):
        lanes[i % 8] += weights[i]
    total = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))
    for i in range(whole, len(weights)):
        total += weights[i]
    return total


@njit
def _cluster_score(rule, highest, score_sum, count, weight_sum, present, weights, total_weight):
    """Score a cluster; ensemble-boxes rounds the mean score and the weight of two or more boxes to float32."""
    score = highest if rule == MAX else score_sum / count
    if count > 1:
        score, weight_sum = float(np.float32(score)), float(np.float32(weight_sum))
    if rule == MAX:
        return score / weights.max()
    if rule == BOX_AND_MODEL_AVG:
        # Where all boxes have weight 0, the score is 0 as well
        return score * count / weight_sum * _sum(weights[present]) / total_weight if weight_sum > 0 else 0.0
    if rule == ABSENT_MODEL_AWARE_AVG:
        return score * count / (weight_sum + _sum(weights[~present]))
    return score * (count if rule == OVERFLOWING_AVG else min(count, len(weights))) / total_weight


@compiled
def fuse_images(
    first, end, starts, order, boxes, scores, labels, members, weights, thresholds, iou_threshold, rule,
    out_boxes, out_scores, out_labels, out_counts,
):  # fmt: skip
    """Fuse images first..end of N, each greedily around running weighted means (Solovyev et al., "WBF", Sec. 3).

    order [n]: image i visits rows order[starts[i]] to order[starts[i + 1] - 1], by label, then falling weighted score.
    boxes [n, 4] in any corner order, scores [n], labels [n], members [n]; weights [S]; thresholds [S]: lower scores of
    a member are left out. rule: one of the constants above.

    Writes an image's clusters from row starts[i] on, by label, then in the order in which they opened: out_boxes
    [n, 4], out_scores [n], out_labels [n], and their number, out_counts [N]. Running sums of coordinates and the boxes
    of two or more members are rounded to float32, as in ensemble-boxes.
    """
    total_weight = _sum(weights)
    # If two boxes' IoU exceeds t, so do the IoUs of their x and y intervals. Intervals of lengths a and b whose IoU
    # exceeds t have centers less than a * (1 - t) / (2 * t) apart, whatever b: only cells within this reach are
    # searched.
    reach = (1 - iou_threshold) / (2 * iou_threshold)
    for image in range(first, end):
        base, n = starts[image], starts[image + 1] - starts[image]
        fused, areas, sums = out_boxes[base : base + n], np.empty(n), np.zeros((n, 4), np.float32)
        score_sums, weight_sums, highest = np.zeros(n), np.zeros(n), np.empty(n)
        counts, present = np.zeros(n, np.int64), np.zeros((n, len(weights)), np.bool_)
        # Each cell has a linked list of clusters. A cluster that moves to another cell is in both lists
        heads, following, listed = np.full((CELLS, CELLS), -1), np.empty(n, np.int64), np.empty(n, np.int64)
        cells = np.empty((n, 2), np.int64)
        k, entries, first_entry = 0, 0, 0
        for position in range(base, base + n):
            row = order[position]
            if position == base or labels[row] != labels[order[position - 1]]:
                for entry in range(first_entry, entries):
                    heads[cells[entry, 0], cells[entry, 1]] = -1
                first_entry = entries
            member, score = members[row], scores[row] * weights[members[row]]
            x1, y1 = min(max(boxes[row, 0], 0.0), 1.0), min(max(boxes[row, 1], 0.0), 1.0)
            x2, y2 = min(max(boxes[row, 2], 0.0), 1.0), min(max(boxes[row, 3], 0.0), 1.0)
            x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
            area = (x2 - x1) * (y2 - y1)
            if area == 0 or scores[row] < thresholds[member]:
                continue

            match, best = -1, iou_threshold
            x, y, reach_x, reach_y = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) * reach + 1e-6, (y2 - y1) * reach + 1e-6
            first_column, last_column = _cell(x - reach_x), _cell(x + reach_x)
            for i in range(_cell(y - reach_y), _cell(y + reach_y) + 1):
                for j in range(first_column, last_column + 1):
                    entry = heads[i, j]
                    while entry >= 0:
                        cluster = listed[entry]
                        width = max(min(x2, fused[cluster, 2]) - max(x1, fused[cluster, 0]), 0.0)
                        height = max(min(y2, fused[cluster, 3]) - max(y1, fused[cluster, 1]), 0.0)
                        iou = width * height / (areas[cluster] + area - width * height)
                        if iou > best or (iou == best and cluster < match):
                            match, best = cluster, iou
                        entry = following[entry]

            box = (x1, y1, x2, y2)
            if match < 0:
                match = k
                k += 1
                highest[match], out_labels[base + match] = score, labels[row]
                for side in range(4):
                    fused[match, side] = box[side]
            counts[match] += 1
            score_sums[match] += score
            weight_sums[match] += weights[member]
            present[match, member] = True
            for side in range(4):
                sums[match, side] = sums[match, side] + score * box[side]
                # A cluster of zero scores only has no weighted mean: it keeps its first box
                if counts[match] > 1 and score_sums[match] > 0:
                    fused[match, side] = np.float32(sums[match, side] / score_sums[match])
            areas[match] = (fused[match, 2] - fused[match, 0]) * (fused[match, 3] - fused[match, 1])
            row, column = _cell((fused[match, 1] + fused[match, 3]) / 2), _cell((fused[match, 0] + fused[match, 2]) / 2)
            if heads[row, column] < 0 or listed[heads[row, column]] != match:
                cells[entries, 0], cells[entries, 1] = row, column
                listed[entries], following[entries], heads[row, column] = match, heads[row, column], entries
                entries += 1
        for i in range(k):
            out_scores[base + i] = _cluster_score(
                rule, highest[i], score_sums[i], counts[i], weight_sums[i], present[i], weights, total_weight
            )
        out_counts[image] = k
