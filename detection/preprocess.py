"""From a decoded image to the network's input."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from classification.backbones.resnet import DETECTION_INPUT
from classification.data.statistics import IMAGENET_STATISTICS
from divdet.engine.normalize import normalize

# Of the pixels that the backbones are trained with: RGB in 0…255.
MEAN, STD = (tuple(255 * value for value in channels) for channels in IMAGENET_STATISTICS)
_FILL = [round(value) for value in MEAN]

# [N, 300, 300, 3] uint8 RGB on the detector's device -> what ``SSD.forward`` returns for it
Network = Callable[[Tensor], tuple[Tensor, Tensor]]


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
    """Resizes a whole image to the network's input, ``[300, 300, 3]`` uint8, whatever its aspect ratio, as SSD does."""
    return resize_window(image, Window(0, 0, image.shape[1], image.shape[0]), DETECTION_INPUT)[0]


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
        network: an ``SSD``.
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
