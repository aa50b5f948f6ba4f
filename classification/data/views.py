"""What the members see of an image: random views in training (paper, Sec. III-B a), its center in evaluation.

Views are uint8 until they are on the network's device, where `normalize`, `erase` and `mixup` work on the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from classification.data.datasets import ImageSet
from classification.data.statistics import IMAGENET_STATISTICS, STATISTICS, Statistics
from classification.settings import DataSettings, Interpolation
from divdet.engine.sampling import derived_seed

SMALL = 64  # pixels, up to which images get the padded crop and the CIFAR form of a network
CROP_RATIO = (3 / 4, 4 / 3)


class TrainingViews(Dataset):
    """Random views of training images.

    ``views[key]``, with a key of ``EpochSampler``, gives uint8 views [V,H,W,3], the rectangles that `erase` blanks
    int64 [V,4] (top, left, height, width; height 0 for none), and the label. V is S, or 1 where all members see the
    same view; H = W = ``size``. A view depends on (seed, key, member) alone, and the process's random state is left as
    it was.
    """

    def __init__(self, images: ImageSet, settings: DataSettings, size: int, members: int, seed: int) -> None:
        self.images, self.settings, self.size, self.seed = images, settings, size, seed
        self.crop = crop_kind(settings, size)
        self.views = members if settings.different_views else 1
        self.interpolation, self.erased = settings.interpolation or "bicubic", tuple(settings.erased().values())
        self.auto_augment = _policy(settings)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
        epoch, number = key
        index = number % len(self)
        image = self.images.read(index)
        if self.crop != "resized":
            image = center_crop(image, self.size, 1.0, self.interpolation)
        seeds = [derived_seed(self.seed, "views", epoch, number, member) for member in range(self.views)]
        views, erased = zip(*(self._view(image, seed) for seed in seeds), strict=True)
        return torch.from_numpy(np.stack(views)), torch.tensor(erased), int(self.images.labels[index])

    def _view(self, image: np.ndarray, seed: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
        settings, random = self.settings, np.random.default_rng(seed)
        if self.crop == "padded":
            image = padded_crop(image, settings.padding, random)
        elif self.crop == "resized":
            image = resized_crop(image, self.size, settings.crop_area, self.interpolation, random)
        if random.random() < settings.flip:
            image = image[:, ::-1]
        if self.auto_augment:
            with torch.random.fork_rng(devices=[]):  # torchvision draws from the CPU generator
                torch.default_generator.manual_seed(seed)
                image = self.auto_augment(Image.fromarray(np.ascontiguousarray(image)))
        erased = None
        if random.random() < settings.erasing:
            erased = random_rectangle(self.size, self.size, *self.erased, random)
        return np.asarray(image), erased or (0, 0, 0, 0)


def _policy(settings: DataSettings) -> Callable[[Image.Image], Image.Image] | None:
    """AutoAugment or RandAugment, whose geometric operations fill with gray."""
    if settings.auto_augment == "none":
        return None
    from torchvision.transforms import v2  # slow to import

    from classification.data.rand_augment import RandAugment

    fill = [128, 128, 128]
    if settings.auto_augment != "rand":
        return v2.AutoAugment(v2.AutoAugmentPolicy(settings.auto_augment), fill=fill)
    scale = (settings.rand_augment_operations, settings.rand_augment_magnitude, settings.rand_augment_levels)
    return RandAugment(*scale, fill=fill, deviation=settings.rand_augment_deviation)


class EvaluationViews(Dataset):
    """``views[index]`` gives the center of an image, uint8 [size,size,3], and its label. See `center_crop`."""

    def __init__(self, images: ImageSet, size: int, resize: float, interpolation: Interpolation) -> None:
        self.images, self.size, self.resize, self.interpolation = images, size, resize, interpolation

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        view = center_crop(self.images.read(index), self.size, self.resize, self.interpolation)
        return torch.from_numpy(np.ascontiguousarray(view)), int(self.images.labels[index])


def network_inputs(settings: DataSettings, size: int, statistics: Statistics | None = None) -> dict[str, Any]:
    """The `DataSettings` of the network's inputs that a checkpoint keeps, with all defaults filled in.

    ``statistics`` are the default mean and standard deviation; None for the data set's.
    """
    crop = crop_kind(settings, size)
    mean, std = statistics or STATISTICS.get(settings.dataset, IMAGENET_STATISTICS)
    return {
        "crop": crop,
        "image_size": size,
        "eval_resize": settings.eval_resize or (1.15 if crop == "resized" else 1.0),
        "interpolation": settings.interpolation or "bicubic",
        "mean": settings.mean or list(mean),
        "std": settings.std or list(std),
    }


def crop_kind(settings: DataSettings, size: int) -> str:
    """``settings.crop``, with auto resolved by the size of the network's input."""
    if settings.crop != "auto":
        return settings.crop
    return "padded" if size <= SMALL else "resized"


def center_crop(image: np.ndarray, size: int, resize: float, interpolation: Interpolation) -> np.ndarray:
    """Resizes an image [H,W,3] to a shorter side of ``int(resize * size)`` and takes its center [size,size,3].

    Rounds as torchvision's ``Resize`` and ``CenterCrop``; with ``area`` as earlier versions did, for the networks
    that were trained with them.
    """
    height, width = image.shape[:2]
    shorter = min(height, width)
    if max(height, width) > 16 * shorter:  # resizing all of a long image could take gigabytes
        height, width = min(height, 16 * shorter), min(width, 16 * shorter)
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        image = image[top : top + height, left : left + width]
    if interpolation == "area":
        scale = size * resize / shorter
        height, width = (max(round(side * scale), size) for side in (height, width))
        top, left = (height - size) // 2, (width - size) // 2
    else:
        target = int(resize * size)
        height, width = (int(target * side / shorter) for side in (height, width))
        top, left = round((height - size) / 2), round((width - size) / 2)
    if (height, width) != image.shape[:2]:
        image = _resize(image, height, width, interpolation)
    return image[top : top + size, left : left + size]


def padded_crop(image: np.ndarray, padding: int, random: np.random.Generator) -> np.ndarray:
    """Pads with black on all sides and takes a random crop of the image's own size."""
    height, width = image.shape[:2]
    top, left = random.integers(2 * padding + 1, size=2)
    padded = cv2.copyMakeBorder(image, *[padding] * 4, cv2.BORDER_CONSTANT, value=0)
    return padded[top : top + height, left : left + width]


def resized_crop(
    image: np.ndarray, size: int, area: Sequence[float], interpolation: Interpolation, random: np.random.Generator
) -> np.ndarray:
    """Takes a random crop of ``area`` (shares of the image) and aspect 3:4 to 4:3, resized to [size,size,3].

    Where no draw fits, as in long images, it is the largest center crop of such an aspect, as in torchvision.
    """
    height, width = image.shape[:2]
    rectangle = random_rectangle(height, width, area, CROP_RATIO, random)
    if rectangle is None:
        h, w = min(height, round(width / CROP_RATIO[0])), min(width, round(height * CROP_RATIO[1]))
        rectangle = (height - h) // 2, (width - w) // 2, h, w
    top, left, h, w = rectangle
    return _resize(image[top : top + h, left : left + w], size, size, interpolation)


def random_rectangle(
    height: int, width: int, area: Sequence[float], ratio: Sequence[float], random: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Draws a rectangle inside [height,width]: top, left, height, width; None if ten draws do not fit.

    Its share of the area is uniform in ``area``, its height / width log-uniform in ``ratio``.
    """
    for _ in range(10):
        pixels = height * width * random.uniform(*area)
        sides = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(pixels * sides)), round(math.sqrt(pixels / sides))
        if 0 < h <= height and 0 < w <= width:
            return int(random.integers(height - h + 1)), int(random.integers(width - w + 1)), h, w
    return None


def erase(images: Tensor, rectangles: Tensor) -> Tensor:
    """Sets a rectangle (int [...,4]: top, left, height, width) of each image [...,3,H,W] to zero, in place."""
    top, left, height, width = rectangles[..., None].unbind(-2)  # each [...,1]
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[-2:])
    in_rows, in_columns = (rows >= top) & (rows < top + height), (columns >= left) & (columns < left + width)
    return images.masked_fill_((in_rows[..., None] & in_columns[..., None, :]).unsqueeze(-3), 0)


def mixup(images: Tensor, labels: Tensor, num_classes: int, alpha: float) -> tuple[Tensor, Tensor]:
    """Mixes each image [(S,)N,3,H,W] with its neighbor in the shuffled batch, and labels [N] to probabilities [N,C].

    One share for the batch and all its views is drawn from Beta(alpha, alpha), by PyTorch's CPU generator.
    """
    share = torch.distributions.Beta(alpha, alpha).sample().item()
    targets = F.one_hot(labels, num_classes).float()
    return images.lerp(images.roll(1, -4), 1 - share), targets.lerp(targets.roll(1, 0), 1 - share)


def _resize(image: np.ndarray, height: int, width: int, interpolation: Interpolation) -> np.ndarray:
    if interpolation != "area":
        return np.array(Image.fromarray(image).resize((width, height), Image.Resampling[interpolation.upper()]))
    shrinking = height * width < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
