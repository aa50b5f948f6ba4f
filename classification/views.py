"""What the members see of an image: random views in training (paper, Sec. III-B a), one plain view in evaluation.

Views are uint8 until they reach the network's device, where `normalize` and `mixup` work on the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision.transforms import v2

from classification.config import DataSettings
from classification.datasets import ImageSet
from engine.sampling import derived_seed

SMALL = 64  # pixels up to which an image is cropped after padding, and takes the CIFAR form of a network
EVALUATION_CROP = 0.875  # side of the centre crop where training takes parts of larger images (224 of 256)
CROP_AREA, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
ERASED_AREA, ERASED_RATIO = (0.02, 0.4), (0.3, 1 / 0.3)  # of random erasing's authors (paper, ref. [47])
POLICIES = {policy.value: policy for policy in v2.AutoAugmentPolicy}  # cifar10, imagenet, svhn


class TrainingViews(Dataset):
    """``views[key]`` -> uint8 [V,H,W,3], label: random views of the image of an ``EpochSampler``'s key.

    V is S, or 1 where all members see the same view. A view is a function of (seed, key, member) alone; the process's
    random state is left as it was.

    Args:
        images: the training images.
        settings: the augmentation.
        size: H = W, in pixels.
        members: S.
        fill: RGB in 0…1 of erased rectangles, by default the channel means.
    """

    def __init__(
        self, images: ImageSet, settings: DataSettings, size: int, members: int, seed: int, fill: tuple[float, ...]
    ) -> None:
        self.images, self.settings, self.size, self.seed = images, settings, size, seed
        self.crop = crop_kind(settings, size)
        self.views = members if settings.different_views else 1
        self.fill = np.round(np.array(fill) * 255).astype(np.uint8)
        self.auto_augment = None
        if settings.auto_augment == "rand":
            self.auto_augment = v2.RandAugment(settings.rand_augment_operations, settings.rand_augment_magnitude)
        elif settings.auto_augment != "none":
            self.auto_augment = v2.AutoAugment(POLICIES[settings.auto_augment])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, number = key
        index = number % len(self)
        image = self.images.read(index)
        if self.crop != "resized":
            image = centre_crop(image, self.size)
        seeds = [derived_seed(self.seed, "views", epoch, number, member) for member in range(self.views)]
        return torch.from_numpy(np.stack([self._view(image, seed) for seed in seeds])), int(self.images.labels[index])

    def _view(self, image: np.ndarray, seed: int) -> np.ndarray:
        random = np.random.default_rng(seed)
        if self.crop == "padded":
            image = padded_crop(image, self.settings.padding, random)
        elif self.crop == "resized":
            image = resized_crop(image, self.size, random)
        if random.random() < self.settings.flip:
            image = image[:, ::-1]
        if self.auto_augment:
            with _torch_seed(seed):
                image = self.auto_augment(Image.fromarray(np.ascontiguousarray(image)))
        view = np.array(image)
        if random.random() < self.settings.erasing:
            erase(view, self.fill, random)
        return view


class EvaluationViews(Dataset):
    """``views[index]`` -> uint8 [H,W,3], label: the centre of the image, H = W = ``size``."""

    def __init__(self, images: ImageSet, size: int, crop: str) -> None:
        self.images, self.size = images, size
        self.share = EVALUATION_CROP if crop == "resized" else 1.0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        view = centre_crop(self.images.read(index), self.size, self.share)
        return torch.from_numpy(np.ascontiguousarray(view)), int(self.images.labels[index])


def crop_kind(settings: DataSettings, size: int) -> str:
    """``settings.crop``, with auto resolved by the size of the network's input."""
    if settings.crop != "auto":
        return settings.crop
    return "padded" if size <= SMALL else "resized"


def centre_crop(image: np.ndarray, size: int, share: float = 1.0) -> np.ndarray:
    """The centre [size,size,3] of an image [H,W,3] whose shorter side was resized to ``size / share``."""
    height, width = image.shape[:2]
    shorter = min(height, width)
    if max(height, width) > 16 * shorter:  # what is cut off in the end would first be enlarged, to gigabytes
        height, width = min(height, 16 * shorter), min(width, 16 * shorter)
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        image = image[top : top + height, left : left + width]
    scale = size / share / shorter
    if scale != 1:
        height, width = max(round(height * scale), size), max(round(width * scale), size)
        image = _resize(image, height, width)
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size]


def padded_crop(image: np.ndarray, padding: int, random: np.random.Generator) -> np.ndarray:
    """A random part of the image's own size, after padding it with black on all sides."""
    height, width = image.shape[:2]
    top, left = random.integers(2 * padding + 1, size=2)
    padded = np.zeros((height + 2 * padding, width + 2 * padding, 3), np.uint8)
    padded[padding : padding + height, padding : padding + width] = image
    return padded[top : top + height, left : left + width]


def resized_crop(image: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """A random part, 8 to 100% of the area with sides 3:4 to 4:3, resized to [size,size,3]."""
    rectangle = random_rectangle(*image.shape[:2], CROP_AREA, CROP_RATIO, random)
    if rectangle is None:
        return centre_crop(image, size)
    top, left, height, width = rectangle
    return _resize(image[top : top + height, left : left + width], size, size)


def erase(view: np.ndarray, fill: np.ndarray, random: np.random.Generator) -> None:
    """Fills a random rectangle of the view [H,W,3], in place."""
    rectangle = random_rectangle(*view.shape[:2], ERASED_AREA, ERASED_RATIO, random)
    if rectangle is not None:
        top, left, height, width = rectangle
        view[top : top + height, left : left + width] = fill


def random_rectangle(
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    random: np.random.Generator,
) -> tuple[int, int, int, int] | None:
    """Top, left, height, width of a random rectangle inside [height,width].

    Its share of the area is uniform in ``area``, its height / width log-uniform in ``ratio``. None where ten draws gave
    none that fits.
    """
    for _ in range(10):
        pixels = height * width * random.uniform(*area)
        sides = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(pixels * sides)), round(math.sqrt(pixels / sides))
        if 0 < h <= height and 0 < w <= width:
            return int(random.integers(height - h + 1)), int(random.integers(width - w + 1)), h, w
    return None


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 [...,H,W,3] -> float32 [...,3,H,W] in channels-last memory: (pixel / 255 - mean) / std."""
    return ((images / 255 - mean) / std).movedim(-1, -3)


def mixup(images: Tensor, labels: Tensor, num_classes: int, alpha: float) -> tuple[Tensor, Tensor]:
    """Mixes each image with its neighbour in the shuffled batch: one draw for the batch and all its views.

    Args:
        images: float [S,N,3,H,W] or [N,3,H,W].
        labels: int64 [N].
        alpha: of the Beta distribution of the mixing share, drawn from PyTorch's CPU generator.

    Returns:
        Mixed images, and class probabilities [N,C].
    """
    share = torch.distributions.Beta(alpha, alpha).sample().item()
    targets = F.one_hot(labels, num_classes).float()
    return images.lerp(images.roll(1, -4), 1 - share), targets.lerp(targets.roll(1, 0), 1 - share)


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    shrinking = height * width < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)


@contextmanager
def _torch_seed(seed: int) -> Iterator[None]:
    """Seeds the CPU generator, which torchvision draws from, and puts its state back: torch.manual_seed would take
    longer than the transformation, since it also visits every other device.
    """
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
