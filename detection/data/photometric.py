"""SSD's photometric distortion (Liu et al. 2016, Sec. 2.2), with torchvision's formulas and ranges.

Images are ``[H, W, 3]`` uint8 RGB, contiguous. Results are within a few of 256 levels of torchvision's, since OpenCV's
hue has 256 steps.
"""

import cv2
import numpy as np

_GRAY = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue, ITU-R BT.601
_PROBABILITY = 0.5  # that an image is distorted at all


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Scales all values."""
    return cv2.convertScaleAbs(image, alpha=factor)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Scales each value's distance from the image's mean gray."""
    mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
    return cv2.addWeighted(image, factor, image, 0, mean * (1 - factor))


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Scales each value's distance from its pixel's gray."""
    return cv2.transform(image, np.eye(3) * factor + _GRAY * (1 - factor))


def adjust_hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Shifts all hues by a fraction of the color circle, -0.5 to 0.5."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(turn * 256) % 256)  # uint8 wraps around
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def jitter(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Applies all four in random order by random amounts, with probability 0.5; otherwise returns the image."""
    if random.random() >= _PROBABILITY:
        return image
    changes = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    ranges = ((0.875, 1.125), (0.5, 1.5), (0.5, 1.5), (-0.05, 0.05))
    for number in random.permutation(len(changes)):
        image = changes[number](image, random.uniform(*ranges[number]))
    return image
