"""From a decoded image to the network's input."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from classification.data.statistics import IMAGENET_STATISTICS
from detection.boxes import Boxes
from detection.heads import Input
from divdet.engine.normalize import normalize

# Of the pixels that the backbones are trained with: RGB in 0…255.
MEAN, STD = (tuple(255 * value for value in channels) for channels in IMAGENET_STATISTICS)
_FILL = [round(value) for value in MEAN]

# [N, size, size, 3] uint8 RGB on the detector's device -> what ``DividedDetector.forward`` returns for it
Network = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass
class Window:
    """A region of an image in pixels; parts of it may lie outside the image."""

    x: float
    y: float
    width: float
    height: float


def resize_window(image: np.ndarray, window: Window, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Resizes a region of an image to a square. What lies outside the image is filled with the mean color.

    Args:
        image: ``[H, W, 3]`` uint8.
        window: the region.
        size: side of the square in pixels.

    Returns:
        The square, ``[size, size, 3]`` uint8, and ``(scale_x, scale_y, shift_x, shift_y)``: boxes move as the pixels
        did by ``x' = x * scale_x + shift_x``, and y likewise.
    """
    height, width = image.shape[:2]
    left, top = (max(int(np.floor(v)), 0) for v in (window.x, window.y))
    right = min(int(np.ceil(window.x + window.width)), width)
    bottom = min(int(np.ceil(window.y + window.height)), height)
    to_left, to_right = _placed(left - window.x, right - window.x, window.width, size)
    to_top, to_bottom = _placed(top - window.y, bottom - window.y, window.height, size)
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


def _placed(first: float, end: float, length: float, size: int) -> tuple[int, int]:
    """Where pixels ``first`` to ``end`` of a window of ``length`` come to lie among ``size``; at least one pixel."""
    scale = size / length
    low = min(max(round(first * scale), 0), size - 1)
    return low, max(min(round(end * scale), size), low + 1)


def input_window(window: Window, form: Input) -> Window:
    """The region that fills a network's input where ``window`` should be seen: ``letterbox`` adds to one side."""
    if form.fit == "stretch":
        return window
    side = max(window.width, window.height)
    return Window(window.x, window.y, side, side)


def to_input(image: np.ndarray, form: Input) -> np.ndarray:
    """Brings a whole image to a network's input, ``[size, size, 3]`` uint8."""
    window = input_window(Window(0, 0, image.shape[1], image.shape[0]), form)
    return resize_window(image, window, form.size)[0]


def seen_share(width: int, height: int, form: Input) -> tuple[float, float]:
    """The shares of the input's width and height that an image of so many pixels fills in ``to_input``: 1 or less."""
    window = input_window(Window(0, 0, width, height), form)
    across, down = _placed(0, width, window.width, form.size)[1], _placed(0, height, window.height, form.size)[1]
    return across / form.size, down / form.size


def to_pixels(result: Boxes, width: int, height: int, form: Input) -> Boxes:
    """Converts boxes in fractions of the input to pixels of an image of that size, the inverse of ``to_input``.

    They are clipped to the image; boxes that lie outside are dropped.
    """
    share = torch.tensor([*seen_share(width, height, form)] * 2, dtype=result.boxes.dtype)
    size = torch.tensor([width, height, width, height], dtype=result.boxes.dtype)
    boxes = (result.boxes / share).clamp(0, 1) * size
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return Boxes(boxes[inside], result.scores[inside], result.labels[inside])


class Normalize(nn.Module):
    """Normalizes uint8 RGB ``[..., H, W, 3]`` to ``[..., 3, H, W]`` by ImageNet's mean and standard deviation.

    Both are buffers, so that a compiled or exported network has them on its device. Checkpoints do not hold them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(STD), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return normalize(images, self.mean, self.std)


class FromPixels(nn.Module):
    """A network together with the normalization of its images: uint8 pixels in, raw head outputs out.

    It holds the network itself, not a copy: a network in training is evaluated as it is at that moment.

    Args:
        network: a ``DividedDetector``.
        dtype: of the normalized images; default: torch's default dtype.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype or torch.get_default_dtype()
        self.normalize = Normalize().to(next(network.parameters()).device)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.network.concurrent is None:
            return self.network(self._prepare(images))
        from divdet.engine.concurrency import beside  # most detectors run their members in sequence

        return self.network(beside(self.network.concurrent, images.device, self._prepare, images))

    def _prepare(self, images: Tensor) -> Tensor:
        return self.normalize(images).to(self.dtype)
