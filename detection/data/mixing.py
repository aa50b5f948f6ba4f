"""Mosaic and mixup: training images made of several."""

from collections.abc import Sequence

import cv2
import numpy as np

from detection.heads import Input
from detection.preprocess import Window, input_window, resize_window

Labelled = tuple[np.ndarray, np.ndarray, np.ndarray]  # image [H, W, 3] uint8, boxes [n, 4] xyxy in pixels, labels [n]

_FILL = 114  # ultralytics' and mmdetection's gray, where no image lies
_CENTER = (0.5, 1.5)  # of the four images' common corner, in tiles


def mosaic(parts: Sequence[Labelled], random: np.random.Generator, form: Input) -> Labelled:
    """Puts four images around a common corner and cuts out a part (Bochkovskiy et al. 2020, "YOLOv4").

    Each image is brought to a square as the network sees it alone: stretched, or in its aspect ratio at the upper left.
    The corner lies at random in the middle of a canvas of 2 x 2 such squares. What is cut out has 1 to 2 squares a
    side, at a random place. Boxes are cut at the borders; those whose center is outside are left out.

    Args:
        parts: four images, their boxes inside them.
        random: the source of all draws.
        form: the network's input, as an image is seen alone.
    """
    tile = form.size
    canvas = np.full((2 * tile, 2 * tile, 3), _FILL, np.uint8)
    corner = np.round(random.uniform(*_CENTER, 2) * tile).astype(int)
    side = round(random.uniform(1, 2) * tile)
    window = random.integers(0, 2 * tile - side + 1, 2)
    all_boxes, all_labels = [], []
    for place, (image, boxes, labels) in enumerate(parts):
        whole = input_window(Window(0, 0, image.shape[1], image.shape[0]), form)
        square, mapping = resize_window(image, whole, tile)
        first = corner - tile * np.array([place % 2 == 0, place < 2])  # left of the corner or right, above or below
        low, high = first.clip(0), (first + tile).clip(max=2 * tile)
        inner = (slice(low[1] - first[1], high[1] - first[1]), slice(low[0] - first[0], high[0] - first[0]))
        canvas[low[1] : high[1], low[0] : high[0]] = square[inner]
        moved = boxes * np.tile(mapping[:2], 2) + np.tile(mapping[2:] + first, 2)
        low, high = np.maximum(low, window), np.minimum(high, window + side)
        centers = (moved[:, :2] + moved[:, 2:]) / 2
        kept = ((centers > low) & (centers < high)).all(axis=1)
        all_boxes.append(moved[kept].clip(np.tile(low, 2), np.tile(high, 2)) - np.tile(window, 2))
        all_labels.append(labels[kept])
    image = np.ascontiguousarray(canvas[window[1] : window[1] + side, window[0] : window[0] + side])
    return image, np.concatenate(all_boxes).astype(np.float32), np.concatenate(all_labels)


def mixup(first: Labelled, second: Labelled, random: np.random.Generator) -> Labelled:
    """Blends two views and keeps the boxes of both (Zhang et al. 2019, "Bag of freebies"; ultralytics' Beta(32, 32)).

    The views are the network's inputs ``[V, H, W, 3]`` with boxes in [0, 1].
    """
    share = random.beta(32, 32)
    views = [cv2.addWeighted(a, share, b, 1 - share, 0) for a, b in zip(first[0], second[0], strict=True)]
    return np.stack(views), np.concatenate([first[1], second[1]]), np.concatenate([first[2], second[2]])
