"""SSD's augmentation: one geometric step from the stored image to the network's input, then photometric noise."""

from dataclasses import dataclass

import cv2
import numpy as np

from classification.backbones.resnet import DETECTION_INPUT
from classification.data.datasets import IMAGENET_STATISTICS
from detection.data.photometric import jitter
from detection.training.config import DataSettings

# RGB in 0…255: what the backbones are trained with.
MEAN, STD = (tuple(255 * value for value in channels) for channels in IMAGENET_STATISTICS)

_FILL = [round(value) for value in MEAN]
_LEAST_IOU = (None, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
_TRIALS = 40
# A box of less than one input pixel shows nothing, and the logarithm of its size would outweigh all others.
_LEAST_SIDE = 1 / DETECTION_INPUT


@dataclass
class Window:
    """A region of an image, in its pixels; it may reach outside."""

    x: float
    y: float
    width: float
    height: float


def resize_window(image: np.ndarray, window: Window, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Resizes a region of an image to a square, filling with the mean colour what lies outside.

    Args:
        image: ``[H, W, 3]`` uint8.
        window: the region.
        size: side of the result.

    Returns:
        The square ``[size, size, 3]`` uint8 and the map ``(scale x, scale y, shift x, shift y)`` of
        the pixels that were placed: ``x' = x · scale + shift`` moves boxes by exactly what moved the pixels.
    """
    height, width = image.shape[:2]
    left, top = (max(int(np.floor(v)), 0) for v in (window.x, window.y))
    right = min(int(np.ceil(window.x + window.width)), width)
    bottom = min(int(np.ceil(window.y + window.height)), height)
    scale_x, scale_y = size / window.width, size / window.height
    to_left = min(max(round((left - window.x) * scale_x), 0), size - 1)
    to_top = min(max(round((top - window.y) * scale_y), 0), size - 1)
    to_right = max(min(round((right - window.x) * scale_x), size), to_left + 1)
    to_bottom = max(min(round((bottom - window.y) * scale_y), size), to_top + 1)
    target = (to_right - to_left, to_bottom - to_top)
    placed = image[top:bottom, left:right]
    smaller = (min(target[0], right - left), min(target[1], bottom - top))
    if smaller != (right - left, bottom - top):
        placed = cv2.resize(placed, smaller, interpolation=cv2.INTER_AREA)
    if smaller != target:
        placed = cv2.resize(placed, target, interpolation=cv2.INTER_LINEAR)
    scale_x, scale_y = target[0] / (right - left), target[1] / (bottom - top)
    mapping = np.array([scale_x, scale_y, to_left - left * scale_x, to_top - top * scale_y])
    if target == (size, size):
        return placed, mapping
    border = (to_top, size - to_bottom, to_left, size - to_right)
    return cv2.copyMakeBorder(placed, *border, cv2.BORDER_CONSTANT, value=_FILL), mapping


def to_input(image: np.ndarray) -> np.ndarray:
    """The whole image as the network's input, ``[300, 300, 3]`` uint8; its aspect ratio is not kept, as in SSD."""
    return resize_window(image, Window(0, 0, image.shape[1], image.shape[0]), DETECTION_INPUT)[0]


class TrainingAugmentation:
    """Photometric noise, zoom-out, IoU crop and flip of SSD (Liu et al. 2016, Sec. 2.2 and 3.6; torchvision's values).

    Zoom-out and crop only choose a window, so that one resize makes the input; the photometric operations run on its
    300 x 300 pixels instead of on the stored image.
    """

    def __init__(self, settings: DataSettings, members: int = 1) -> None:
        self.settings = settings
        self.views = members if settings.different_views else 1

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An augmented view.

        Args:
            image: ``[H, W, 3]`` uint8 RGB.
            boxes: ``[n, 4]`` xyxy in pixels, inside the image.
            labels: ``[n]``.
            seed: decides everything that is drawn.

        Returns:
            The input ``[V, 300, 300, 3]`` uint8, V being S where each member has its own photometric view and 1
            where all have the same; the boxes that are left (of at least one input pixel a side) ``[m, 4]``
            xyxy in [0, 1], their labels ``[m]``.
        """
        random = np.random.default_rng(seed)
        height, width = image.shape[:2]
        window = Window(0, 0, width, height)
        if random.random() < self.settings.zoom_out:
            ratio = random.uniform(1, self.settings.zoom_out_ratio)
            shift = random.random(2)
            window = Window(
                -shift[0] * width * (ratio - 1), -shift[1] * height * (ratio - 1), width * ratio, height * ratio
            )
        if random.random() < self.settings.iou_crop:
            window = _iou_crop(window, boxes, random)
        view, (scale_x, scale_y, shift_x, shift_y) = resize_window(image, window, DETECTION_INPUT)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        low = (window.x, window.y)
        high = (window.x + window.width, window.y + window.height)
        inside = ((centres > low) & (centres < high)).all(axis=1)
        boxes = boxes[inside] * (scale_x, scale_y, scale_x, scale_y) + (shift_x, shift_y, shift_x, shift_y)
        boxes = (boxes / DETECTION_INPUT).clip(0, 1).astype(np.float32)
        solid = (boxes[:, 2:] - boxes[:, :2] >= _LEAST_SIDE).all(axis=1)
        boxes, labels = boxes[solid], labels[inside][solid]
        if random.random() < self.settings.flip:
            view = cv2.flip(view, 1)
            boxes = boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (1, 0, 1, 0)
        views = [jitter(view, random) if self.settings.photometric else view for _ in range(self.views)]
        return np.stack(views), boxes.astype(np.float32), labels


def _iou_crop(window: Window, boxes: np.ndarray, random: np.random.Generator) -> Window:
    """SSD's crop: a box whose centre lies inside overlaps it by the drawn IoU (Caffe's asks for no centre).

    Sides are 0.3 to 1 of the window's, the aspect ratio 0.5 to 2. An option that fails 40 times is drawn
    anew; "the whole window" is one of the options, so the loop ends.
    """
    if not len(boxes):
        return window
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    while True:
        least = _LEAST_IOU[random.integers(len(_LEAST_IOU))]
        if least is None:
            return window
        draws = random.random((_TRIALS, 4))
        sides = 0.3 + 0.7 * draws[:, :2]
        low = (window.x, window.y) + draws[:, 2:] * (1 - sides) * (window.width, window.height)
        high = low + sides * (window.width, window.height)
        size = high - low
        aspect = size[:, 0] / size[:, 1]
        held = ((centres > low[:, None]) & (centres < high[:, None])).all(axis=2)
        inner = np.minimum(boxes[:, 2:], high[:, None]) - np.maximum(boxes[:, :2], low[:, None])
        inner = inner.clip(min=0).prod(axis=2)
        iou = inner / (areas + size.prod(axis=1)[:, None] - inner)
        # torchvision's rule: of the boxes whose centre is inside, the best overlaps enough.
        good = (aspect > 0.5) & (aspect < 2) & held.any(axis=1) & (np.where(held, iou, -1).max(axis=1) >= least)
        if good.any():
            first = int(good.argmax())
            return Window(*low[first], *size[first])
