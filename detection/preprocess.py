"""From a decoded image to the network's input."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from classification.backbones.resnet import DETECTION_INPUT
from classification.data.statistics import IMAGENET_STATISTICS

# RGB in 0…255: what the backbones are trained with.
MEAN, STD = (tuple(255 * value for value in channels) for channels in IMAGENET_STATISTICS)
_FILL = [round(value) for value in MEAN]


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


class Normalize(nn.Module):
    """``[…, H, W, 3]`` uint8 RGB as the input ``[…, 3, H, W]``, by ImageNet's mean and std; channels-last memory.

    Both are buffers, so that a compiled or exported network has them on its device; checkpoints do not hold them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(STD), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        # Row by row: by pixel, torch would compute in steps of 3.
        width = images.shape[-2]
        mean, std = self.mean.repeat(width), self.std.repeat(width)
        return images.flatten(-2).float().sub_(mean).div_(std).unflatten(-1, (width, 3)).movedim(-1, -3)
