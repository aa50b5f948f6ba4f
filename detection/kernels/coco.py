"""The compiled loops of the COCO numbers. Import it on first use only: it loads numba.

Rules and order of arithmetic are pycocotools' (COCOeval.evaluateImg and accumulate), so that its numbers come out bit
for bit.
"""

import numpy as np
from numba import njit

from detection.kernels.compiled import compiled

_EPSILON = np.spacing(1.0)  # pycocotools adds it to every precision's denominator: 1 / 1 gives 0.9999999999999998
_WRONG, _RIGHT, _IGNORED = 0, 1, 2


@compiled
def precision_and_recall(
    boxes, truth_boxes, truth_areas, truth_crowd, starts, truth_starts, category_groups, order,
    areas, ious, recalls, limits,
):  # fmt: skip
    """Precision at recalls and final recall, by category, area range and limit of detections.

    A group is one category in one image; K categories have groups category_groups[k] to category_groups[k + 1].
    Detections, boxes [n, 4] float64 x y w h, lie by group and falling score, group g in rows starts[g]
    to starts[g + 1], limits[-1] at most. Objects, truth_boxes [m, 4], truth_areas [m] and truth_crowd [m] bool, lie by
    group in truth_starts. order [n]: the rows of each category by falling score. areas [A, 2]: inclusive bounds; ious
    [T], recalls [R] and limits [M] ascend.

    Returns precision [T, R, K, A, M] and recall [T, K, A, M], -1 where a category has no object.
    """
    num_categories = len(category_groups) - 1
    num_ious, num_areas = len(ious), len(areas)
    precision = np.full((num_ious, len(recalls), num_categories, num_areas, len(limits)), -1.0)
    recall = np.full((num_ious, num_categories, num_areas, len(limits)), -1.0)
    rank = np.empty(len(boxes), np.int64)  # within the group
    for group in range(len(starts) - 1):
        for row in range(starts[group], starts[group + 1]):
            rank[row] = row - starts[group]
    for category in range(num_categories):
        first_group, end_group = category_groups[category], category_groups[category + 1]
        first, end = starts[first_group], starts[end_group]
        outcome = np.empty((num_areas, num_ious, end - first), np.uint8)
        counts = np.zeros(num_areas, np.int64)
        for group in range(first_group, end_group):
            rows = slice(starts[group], starts[group + 1])
            truths = slice(truth_starts[group], truth_starts[group + 1])
            crowd, own_areas = truth_crowd[truths], truth_areas[truths]
            overlap = _overlaps(boxes[rows], truth_boxes[truths], crowd)
            for area in range(num_areas):
                low, high = areas[area]
                aside = crowd | (own_areas < low) | (own_areas > high)
                counts[area] += len(aside) - aside.sum()
                # Objects that count come first; the sort keeps the order of the others.
                by_use = np.argsort(aside, kind="mergesort")
                for level in range(num_ious):
                    own = outcome[area, level, rows.start - first : rows.stop - first]
                    _match(overlap, crowd, aside, by_use, ious[level], own)
                    for row in range(len(own)):
                        size = boxes[rows.start + row, 2] * boxes[rows.start + row, 3]
                        if own[row] == _WRONG and (size < low or size > high):
                            own[row] = _IGNORED
        curve = np.empty(end - first)
        for area in range(num_areas):
            if counts[area] == 0:
                continue
            for limit in range(len(limits)):
                for level in range(num_ious):
                    right, wrong = 0, 0
                    for place in range(first, end):
                        row = order[place]
                        state = outcome[area, level, row - first]
                        if rank[row] >= limits[limit] or state == _IGNORED:
                            continue
                        if state == _WRONG:
                            wrong += 1
                            continue
                        right += 1
                        curve[right - 1] = right / (wrong + right + _EPSILON)
                    recall[level, category, area, limit] = right / counts[area]
                    for place in range(right - 1, 0, -1):
                        curve[place - 1] = max(curve[place - 1], curve[place])
                    place = 0
                    for step in range(len(recalls)):
                        while place < right and (place + 1) / counts[area] < recalls[step]:
                            place += 1
                        precision[level, step, category, area, limit] = curve[place] if place < right else 0.0
    return precision, recall


@njit(error_model="numpy")
def _overlaps(boxes, truth_boxes, crowd):
    """IoU [n, m] of x y w h boxes; in a crowd the share of the detection that lies inside."""
    overlap = np.zeros((len(boxes), len(truth_boxes)))
    for truth in range(len(truth_boxes)):
        x, y, width, height = truth_boxes[truth]
        for row in range(len(boxes)):
            own_x, own_y, own_width, own_height = boxes[row]
            wide = min(own_width + own_x, width + x) - max(own_x, x)
            high = min(own_height + own_y, height + y) - max(own_y, y)
            if wide <= 0 or high <= 0:
                continue
            inner, size = wide * high, own_width * own_height
            overlap[row, truth] = inner / (size if crowd[truth] else size + width * height - inner)
    return overlap


@njit
def _match(overlap, crowd, aside, by_use, least, outcome):
    """Gives each detection, best score first, the free object that it overlaps most; of equals the later one.

    Objects ``aside`` (crowds and those of another size) are taken only where no other fits, and their detections
    ignored; a crowd takes any number. Writes ``outcome``.
    """
    taken = np.zeros(len(aside), np.bool_)
    for row in range(len(outcome)):
        best, match = min(least, 1 - 1e-10), -1
        for truth in by_use:
            if taken[truth] and not crowd[truth]:
                continue
            if match >= 0 and not aside[match] and aside[truth]:
                break
            if overlap[row, truth] >= best:
                best, match = overlap[row, truth], truth
        if match < 0:
            outcome[row] = _WRONG
        else:
            taken[match] = True
            outcome[row] = _IGNORED if aside[match] else _RIGHT
