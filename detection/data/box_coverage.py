"""Which objects meet a default box, and how large the input must be for the others to meet one."""

import numpy as np

from detection.heads import BoxPlan

IOU = 0.5  # from which the matcher takes a default box as positive
INPUT_SIZES = (384, 512, 640, 768, 1024, 1280, 1536, 2048, 3072, 4096)


def best_iou(boxes: np.ndarray, input_size: int, plan: BoxPlan, own_size: int) -> np.ndarray:
    """The IoU of each box with the default box that fits it best.

    Args:
        boxes: [n, 4], x1 y1 x2 y2 as fractions of the image.
        input_size: pixels a side. At ``own_size`` the default boxes are the plan's. At other sizes they have the same
            pixels and the same distances in pixels, on larger maps, as tiles of the image would show them.
        plan, own_size: the default boxes, and the input of the network in pixels.

    Returns:
        float [n], in 0…1.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4) * input_size
    centers, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    areas, best = sides[:, 0] * sides[:, 1], np.zeros(len(boxes))
    for step, shapes in zip(plan.steps(own_size), plan.shapes(own_size), strict=True):
        grid = np.minimum((np.arange(np.ceil(input_size / step)) + 0.5) * step, input_size)
        # The overlap on either axis falls with the distance of the centers, so the nearest default box is the best.
        nearest = grid[np.searchsorted((grid[1:] + grid[:-1]) / 2, centers)]
        distance = np.abs(nearest - centers)
        for shape in np.minimum(np.array(shapes), input_size):
            overlap = np.minimum(np.minimum(sides, shape), (sides + shape) / 2 - distance).clip(0)
            shared = overlap[:, 0] * overlap[:, 1]
            best = np.maximum(best, shared / (areas + shape.prod() - shared))
    return best


def needed_input_sizes(boxes: np.ndarray, plan: BoxPlan, own_size: int) -> np.ndarray:
    """The smallest input at which each box meets a default box; int [n].

    It is ``own_size``, one of the ``INPUT_SIZES`` above it, or 0 for none. Arguments as of ``best_iou``.
    """
    needed = np.zeros(len(boxes), int)
    left = np.arange(len(boxes))
    for size in (own_size, *(size for size in INPUT_SIZES if size > own_size)):
        met = best_iou(boxes[left], size, plan, own_size) >= IOU
        needed[left[met]] = size
        left = left[~met]
    return needed
