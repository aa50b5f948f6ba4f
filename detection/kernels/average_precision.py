"""Compiled loops over detections: COCO's matching, and AP of drawn images. Import it on first use: it loads numba."""

import numpy as np

from detection.kernels.compiled import compiled


@compiled
def match(boxes, ends, objects, crowd, object_ends, max_dets, thresholds, out_right, out_counted):
    """Matches the detections of groups, each an image and class, to their objects as COCO does.

    boxes [n, 4] and objects [m, 4] are x y width height in float64, group by group up to ``ends`` and ``object_ends``;
    boxes by falling score, crowds [m] last. Writes out_right and out_counted [T, n] for thresholds [T] of IoU: a
    detection in a crowd, or beyond max_dets of its group, is not counted.
    """
    taken = np.zeros(len(objects), np.bool_)
    for group in range(len(ends)):
        first, end = (ends[group - 1], object_ends[group - 1]) if group else (0, 0)
        own = range(end, object_ends[group])
        for t in range(len(thresholds)):
            taken[end : object_ends[group]] = False
            for d in range(first, min(ends[group], first + max_dets)):
                best, found = min(thresholds[t], 1 - 1e-10), -1
                for o in own:
                    if taken[o] and not crowd[o]:
                        continue
                    if found >= 0 and not crowd[found] and crowd[o]:
                        break
                    iou = _iou(boxes[d], objects[o], crowd[o])
                    if iou >= best:
                        best, found = iou, o
                if found >= 0:
                    taken[found] = True
                out_counted[t, d] = found < 0 or not crowd[found]
                out_right[t, d] = found >= 0 and not crowd[found]


@compiled
def _iou(box, other, crowd):
    """IoU of x y width height; of a crowd, the share of the box that is in it."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared, area = width * height, box[2] * box[3]
    return shared / (area if crowd else area + other[2] * other[3] - shared)


@compiled
def average_precisions(first, end, draws, images, ends, right, counted, objects, out_ap):
    """AP of each class in draws first..end of D, at T thresholds of IoU.

    draws int64 [D, I]: how often each image is drawn. Detections stand class by class up to ``ends`` [C], by falling
    score; images [n], right and counted [T, n], as ``match`` writes them. objects int64 [C, I], crowds not counted.
    Writes out_ap [D, C, T], NaN for a class without objects in a draw.
    """
    thresholds, n = right.shape
    weights, precision, found = np.empty(n, np.int64), np.empty(n), np.empty(n, np.int64)
    for draw in range(first, end):
        times = draws[draw]
        for d in range(n):
            weights[d] = times[images[d]]
        for label in range(len(ends)):
            total = (objects[label] * times).sum()
            if total == 0:
                out_ap[draw, label] = np.nan
                continue
            start = ends[label - 1] if label else 0
            for t in range(thresholds):
                size, hits, shown = 0, 0, 0
                for d in range(start, ends[label]):
                    shown += weights[d] * counted[t, d]
                    if right[t, d] and weights[d]:
                        hits += weights[d]
                        precision[size], found[size] = hits / shown, hits
                        size += 1
                # From the end: at each hundredth of recall, the best precision at that recall or a higher one
                summed, best, level = 0.0, 0.0, 100
                for i in range(size - 1, -1, -1):
                    while level >= 0 and level * 0.01 > found[i] / total:
                        summed += best
                        level -= 1
                    best = max(best, precision[i])
                out_ap[draw, label, t] = (summed + best * (level + 1)) / 101
