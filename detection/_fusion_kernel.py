"""The compiled loop of weighted boxes fusion. Import it on first use only: it loads numba."""

import numpy as np
from numba import njit


@njit(cache=True)
def cluster_boxes(boxes, scores, weights, members, group_starts, num_members, iou_threshold):
    """Cluster the boxes of each group greedily around running weighted means (Solovyev et al., "WBF", Sec. 3).

    boxes [n, 4] float64 xyxy; scores [n] float64, already times the member's weight, descending within a group;
    weights [n] float64; members [n] int64 in 0..num_members-1; group_starts [groups + 1] int64: group g holds rows
    group_starts[g] to group_starts[g + 1].

    Returns per cluster, in the order of opening: its fused box [k, 4], the row of its first (best) box [k], its number
    of boxes [k], sum of scores [k], sum of weights [k], and which members take part [k, num_members].

    Running sums of coordinates and fused boxes of two or more members are rounded to float32, as in ensemble-boxes.
    """
    n = len(scores)
    fused = np.empty((n, 4))
    coordinate_sums = np.empty((n, 4), np.float32)
    first_rows = np.empty(n, np.int64)
    counts = np.zeros(n, np.int64)
    score_sums = np.zeros(n)
    weight_sums = np.zeros(n)
    present = np.zeros((n, num_members), np.bool_)

    num_clusters = 0
    for group in range(len(group_starts) - 1):
        first_cluster = num_clusters
        for row in range(group_starts[group], group_starts[group + 1]):
            x1, y1, x2, y2 = boxes[row, 0], boxes[row, 1], boxes[row, 2], boxes[row, 3]
            area = (x2 - x1) * (y2 - y1)
            match, best_iou = -1, iou_threshold
            for cluster in range(first_cluster, num_clusters):
                fx1, fy1, fx2, fy2 = fused[cluster, 0], fused[cluster, 1], fused[cluster, 2], fused[cluster, 3]
                width = min(x2, fx2) - max(x1, fx1)
                height = min(y2, fy2) - max(y1, fy1)
                if width <= 0 or height <= 0:
                    continue
                overlap = width * height
                iou = overlap / ((fx2 - fx1) * (fy2 - fy1) + area - overlap)
                if iou > best_iou:
                    match, best_iou = cluster, iou

            if match < 0:
                match = num_clusters
                num_clusters += 1
                first_rows[match] = row
                fused[match] = boxes[row]
                coordinate_sums[match] = 0

            counts[match] += 1
            score_sums[match] += scores[row]
            weight_sums[match] += weights[row]
            present[match, members[row]] = True
            for side in range(4):
                coordinate_sums[match, side] = coordinate_sums[match, side] + scores[row] * boxes[row, side]
                # A cluster of zero scores only has no weighted mean: it keeps its first box.
                if counts[match] > 1 and score_sums[match] > 0:
                    fused[match, side] = np.float32(coordinate_sums[match, side] / score_sums[match])

    k = num_clusters
    return fused[:k], first_rows[:k], counts[:k], score_sums[:k], weight_sums[:k], present[:k]
