"""SSD's augmentation: one geometric step from the image to the network's input, then photometric distortion."""

import cv2
import numpy as np

from detection.data.photometric import jitter
from detection.heads import Input
from detection.preprocess import Window, input_window, resize_window
from detection.settings import DataSettings

_LEAST_IOU = (None, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
_TRIALS = 40


class TrainingAugmentation:
    """SSD's photometric distortion, zoom-out, IoU crop and flip (Liu et al. 2016, Sec. 2.2, 3.6; torchvision's values).

    Zoom-out and crop only choose a window, so the image is resized once. Photometric operations run on the network's
    input instead of the full image.
    """

    def __init__(self, settings: DataSettings, members: int = 1, form: Input | None = None) -> None:
        self.settings, self.form = settings, form or Input()
        self.views = members if settings.different_views else 1

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An augmented view.

        Args:
            image: ``[H, W, 3]`` uint8 RGB.
            boxes: ``[n, 4]`` xyxy in pixels, inside the image.
            labels: ``[n]``.
            seed: determines all random draws.

        Returns:
            The input ``[V, size, size, 3]`` uint8 (V = S if each member gets its own photometric view, else 1), the
            remaining boxes ``[m, 4]`` xyxy in [0, 1], at least one input pixel a side, and their labels ``[m]``.
        """
        random = np.random.default_rng(seed)
        height, width = image.shape[:2]
        window = Window(0, 0, width, height)
        if random.random() < self.settings.zoom_out:
            ratio = random.uniform(1, self.settings.zoom_out_ratio)
            left, top = random.random(2)
            window = Window(-left * width * (ratio - 1), -top * height * (ratio - 1), width * ratio, height * ratio)
        if random.random() < self.settings.iou_crop:
            window = _iou_crop(window, boxes, random)
        window, size = input_window(window, self.form), self.form.size
        view, (scale_x, scale_y, shift_x, shift_y) = resize_window(image, window, size)
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        low, high = (window.x, window.y), (window.x + window.width, window.y + window.height)
        inside = ((centers > low) & (centers < high)).all(axis=1)
        boxes = boxes[inside] * (scale_x, scale_y, scale_x, scale_y) + (shift_x, shift_y, shift_x, shift_y)
        boxes = (boxes / size).clip(0, 1).astype(np.float32)
        # A box below one input pixel shows nothing, and the logarithm of its size would dominate the loss.
        solid = (boxes[:, 2:] - boxes[:, :2] >= 1 / size).all(axis=1)
        boxes, labels = boxes[solid], labels[inside][solid]
        if random.random() < self.settings.flip:
            view = cv2.flip(view, 1)
            boxes = boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (1, 0, 1, 0)
        views = [jitter(view, random) if self.settings.photometric else view for _ in range(self.views)]
        return np.stack(views), boxes.astype(np.float32), labels


def _iou_crop(window: Window, boxes: np.ndarray, random: np.random.Generator) -> Window:
    """SSD's crop: some box with its center inside overlaps the crop by the drawn IoU (Caffe ignores centers).

    Sides are 0.3 to 1 of the window's, the aspect ratio 0.5 to 2. After 40 failed trials another IoU is drawn. The
    whole window is one of the options, so the loop ends.
    """
    if not len(boxes):
        return window
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
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
        held = ((centers > low[:, None]) & (centers < high[:, None])).all(axis=2)
        inner = np.minimum(boxes[:, 2:], high[:, None]) - np.maximum(boxes[:, :2], low[:, None])
        inner = inner.clip(min=0).prod(axis=2)
        iou = inner / (areas + size.prod(axis=1)[:, None] - inner)
        # torchvision's rule: the best box with its center inside overlaps enough.
        good = (aspect > 0.5) & (aspect < 2) & held.any(axis=1) & (np.where(held, iou, -1).max(axis=1) >= least)
        if good.any():
            first = int(good.argmax())
            return Window(*low[first], *size[first])
