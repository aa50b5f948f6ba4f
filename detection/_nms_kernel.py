"""The compiled loop of non-maximum suppression in many groups at once. Import it on first use only: it loads numba."""

import numpy as np
from numba import njit


@njit(cache=True)
def suppress(boxes, group_starts, iou_threshold):
    """Greedy suppression within each group, as ``torchvision.ops.nms`` on the group alone.

    boxes [n, 4] float32 xyxy, by falling score within a group; group_starts [groups + 1] int64: group g holds rows
    group_starts[g] to group_starts[g + 1]. Returns which rows stay: [n] bool. A row goes if its IoU with a row that
    stays is strictly above ``iou_threshold`` (float32, as torchvision computes it).
    """
    n = len(boxes)
    areas = np.empty(n, np.float32)
    for row in range(n):
        areas[row] = (boxes[row, 2] - boxes[row, 0]) * (boxes[row, 3] - boxes[row, 1])
    keep = np.ones(n, np.bool_)
    zero = np.float32(0)
    for group in range(len(group_starts) - 1):
        end = group_starts[group + 1]
        for best in range(group_starts[group], end):
            if not keep[best]:
                continue
            x1, y1, x2, y2 = boxes[best, 0], boxes[best, 1], boxes[best, 2], boxes[best, 3]
            for row in range(best + 1, end):
                width = max(min(x2, boxes[row, 2]) - max(x1, boxes[row, 0]), zero)
                height = max(min(y2, boxes[row, 3]) - max(y1, boxes[row, 1]), zero)
                overlap = width * height
                if overlap > 0 and overlap / (areas[best] + areas[row] - overlap) > iou_threshold:
                    keep[row] = False
    return keep
