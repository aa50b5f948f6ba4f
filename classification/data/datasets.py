"""Labelled images: CIFAR, ImageNet, folders and .npz files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.distributed import is_torchelastic_launched
from torchvision import datasets as torchvision_datasets

from classification.data.class_names import IMAGENET, SVHN
from classification.settings import DataSettings, EvalDataSettings
from divdet.engine.checkpoint import is_text
from divdet.engine.errors import UserError
from divdet.engine.files import refuse_special
from divdet.engine.fingerprint import digest, file_sizes
from divdet.engine.images import decode_image, read_bytes
from divdet.engine.sampling import derived_seed

Split = Literal["train", "val", "extra"]  # extra: SVHN's further training images

# Normalisation of the released networks: channel means and standard deviations of pixels in 0…1. CIFAR-10's deviations
# are the mean over single images, which is smaller than that of all pixels (0.247, 0.243, 0.262).
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
IMAGENET_STATISTICS: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STATISTICS: dict[str, Statistics] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.4309, 0.4302, 0.4463), (0.1965, 0.1983, 0.1994)),
}
_FETCH = "add --data.download true (and start it once without torchrun)"
_MOST_UNPACKED = 2**26  # bytes of an .npz file beyond what its own size explains


@dataclass(frozen=True)
class ImageSet:
    """Images with labels.

    Attributes:
        source: the file or folder, for messages.
        classes: names, by label.
        labels: int64 [n].
        items: array of length n: what ``decode`` makes an image of.
        decode: an item -> uint8 RGB [H,W,3].
        content: the bytes that ``items`` point into, if they do.
    """

    source: str
    classes: list[str]
    labels: np.ndarray
    items: np.ndarray
    decode: Callable[[Any], np.ndarray]
    content: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> np.ndarray:
        """The image as uint8 RGB [H,W,3]; raises UserError, naming it, where it cannot be decoded."""
        return self.decode(self.items[index])

    def name(self, index: int) -> str:
        """What a user calls the image: its path, or its number in a file of many."""
        item = self.items[index]
        return str(item) if isinstance(item, str | Path) else f"image {index} of {self.source}"

    def take(self, indices: np.ndarray) -> ImageSet:
        """The images at ``indices`` alone."""
        return replace(self, labels=self.labels[indices], items=self.items[indices])

    def fingerprint(self) -> str:
        """A hash of classes, labels and images: of those in memory the content, of files the names and sizes.

        The folder's own path is left out, since copying changes it. See ``divdet.engine.fingerprint``.
        """
        if self.items.dtype.kind == "U":
            names = [path.removeprefix(self.source) for path in self.items.tolist()]
            return digest(self.classes, self.labels, names, file_sizes(self.items.tolist()))
        return digest(self.classes, self.labels, self.items, self.content)


def load_images(settings: EvalDataSettings, split: Split) -> ImageSet:
    """The training or evaluation images; CIFAR and .npz files are held in memory, CIFAR decoded.

    Raises:
        UserError: where they are missing or malformed.
    """
    try:
        root = Path(settings.root).expanduser()
    except RuntimeError as error:
        raise UserError(f"data.root is {settings.root}: there is no such user; write the folder in full") from error
    match settings.dataset:
        case "cifar10" | "cifar100":
            return _load_cifar(settings, root, split)
        case "svhn":
            return _load_svhn(settings, root, split)
        case "imagenet":
            return _load_imagenet(root, split)
        case "folder":
            return _load_folder(root, split)
        case "npz":
            return _load_npz(root, "train" if split == "train" else "test")


def load_training_images(settings: DataSettings, seed: int) -> tuple[ImageSet, ImageSet]:
    """Training images (with SVHN's extra ones if set, at most ``settings.limit``) and evaluation images, of the same
    classes.

    Raises:
        UserError: as `load_images`, and where the classes of the two differ.
    """
    train, val = load_images(settings, "train"), load_images(settings, "val")
    check_classes(val, train.classes, f"the classes of {train.source}")
    if settings.extra:
        extra = load_images(settings, "extra")
        joined = [np.concatenate([getattr(part, name) for part in (train, extra)]) for name in ("labels", "items")]
        train = replace(train, labels=joined[0], items=joined[1])
    if settings.limit is not None and settings.limit < len(train):
        order = np.random.default_rng(derived_seed(seed, "limit")).permutation(len(train))
        train = train.take(order[: settings.limit])
    return train, val


def check_classes(images: ImageSet, classes: list[str], what: str) -> None:
    """Raises UserError unless ``images`` has exactly ``classes``; ``what`` says whose they are."""
    if images.classes == classes:
        return
    own, others = set(images.classes), set(classes)
    faults = [
        f"{len(names)} {kind} ({', '.join(sorted(names)[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in (("missing", others - own), ("unexpected", own - others))
        if names
    ]
    raise UserError(f"{images.source}: its classes differ from {what}: {'; '.join(faults) or 'another order'}")


def default_image_size(settings: DataSettings, images: ImageSet) -> int:
    """Side of the network's input: ``settings.image_size``, or what the data set calls for (see `DataSettings`).

    Raises:
        UserError: where that is no size for a network.
    """
    if settings.image_size is not None:
        return settings.image_size
    if settings.dataset == "npz":
        size = min(images.read(0).shape[:2])
        if not 8 <= size <= 4096:
            raise UserError(f"{images.source}: the shorter side of its first image is {size}: set --data.image_size")
        return size
    return 32 if settings.dataset in ("cifar10", "cifar100", "svhn") else 224


def _fetch_once(settings: EvalDataSettings) -> EvalDataSettings:
    """Without ``download`` under torchrun, whose processes would all write the same files."""
    return replace(settings, download=settings.download and not is_torchelastic_launched())


def _load_cifar(settings: EvalDataSettings, root: Path, split: Split) -> ImageSet:
    settings = _fetch_once(settings)
    cls = {"cifar10": torchvision_datasets.CIFAR10, "cifar100": torchvision_datasets.CIFAR100}[settings.dataset]
    try:
        # torchvision unpickles these files, but only if their checksums are the published ones.
        data = cls(str(root), train=split == "train", download=settings.download)
    except (RuntimeError, OSError) as error:
        if settings.download:
            raise UserError(f"{root}: {cls.base_folder} cannot be fetched ({error}); put it there by hand") from error
        raise UserError(f"{root}: holds no intact {cls.base_folder} folder: {_FETCH}, or set --data.root") from error
    return ImageSet(str(root), list(data.classes), np.array(data.targets, np.int64), data.data, _as_is)


def _load_svhn(settings: EvalDataSettings, root: Path, split: Split) -> ImageSet:
    settings, part = _fetch_once(settings), {"val": "test"}.get(split, split)
    try:
        data = torchvision_datasets.SVHN(str(root), part, download=settings.download)
    except ImportError as error:
        raise UserError(f"{root}: reading SVHN needs scipy: pip install scipy") from error
    except (RuntimeError, OSError, ValueError) as error:
        if settings.download:
            raise UserError(f"{root}: SVHN cannot be fetched ({error}); put {part}_32x32.mat there") from error
        raise UserError(f"{root}: holds no intact {part}_32x32.mat: {_FETCH}, or set --data.root") from error
    images = np.ascontiguousarray(data.data.transpose(0, 2, 3, 1))
    return ImageSet(str(root), SVHN, np.array(data.labels, np.int64), images, _as_is)


def _as_is(image: np.ndarray) -> np.ndarray:
    return image


def _load_imagenet(root: Path, split: Split) -> ImageSet:
    if os.path.isdir(root / split):  # also false for a name that is too long
        loose = [path.name for path in (root / split).iterdir() if path.suffix.lower() in (".tar", ".jpeg")]
        if loose:
            raise UserError(
                f"{root / split}: holds {loose[0]} outside the class folders, so its unpacking was cut off: delete it"
            )
    elif is_torchelastic_launched():
        raise UserError(
            f"{root}: holds no {split}/: start it once without torchrun, which unpacks the official archives, or set "
            "--data.root"
        )
    else:
        try:
            torchvision_datasets.ImageNet(str(root), split)  # unpacks the official archives
        except ImportError as error:
            raise UserError(f"{root}: unpacking the official archives needs scipy: pip install scipy") from error
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"{root}: holds neither {split}/ with a folder per class nor the official archives (devkit and {split} "
                "images): set --data.root"
            ) from error
    images = _load_folder(root, split)
    # The whole of ImageNet, in the order of its folders: names say more than WordNet ids.
    whole = len(images.classes) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in images.classes)
    return replace(images, classes=IMAGENET) if whole else images


def _load_folder(root: Path, split: Split) -> ImageSet:
    folder = root / split
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder: --data.root needs train/ and val/ with a folder per class")
    _check_links(folder)
    try:
        data = torchvision_datasets.ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise UserError(f"{folder}: {error}") from error
    for name in data.classes:
        if not is_text(name):
            raise UserError(f"{folder}: the class folder {name} has a name that is not UTF-8: rename it")
    if len(data.classes) < 2:
        raise UserError(f"{folder}: holds the one class folder {data.classes[0]}: at least 2 are needed")
    paths = np.array([path for path, _ in data.samples])
    return ImageSet(str(folder), data.classes, np.array(data.targets, np.int64), paths, _read_file)


def _check_links(folder: Path) -> None:
    """Links may lead anywhere, but not round in circles, nor by ever more ways to the same folders: walks never end."""
    left = [(str(folder), os.path.realpath(folder), frozenset[str]())]
    places, visits = set(), 0
    while left:
        path, place, above = left.pop()
        visits += 1
        places.add(place)
        if place in above:
            raise UserError(f"{path}: a link to a folder that it is in leads round in circles; remove it")
        if visits > 10 * len(places) + 1000:
            raise UserError(f"{path}: links lead to its place, and others, in too many ways; remove some")
        try:
            with os.scandir(place) as entries:
                names = [e.name for e in entries if (os.path.isdir(e.path) if e.is_symlink() else e.is_dir())]
        except OSError as error:
            raise UserError(f"{path}: the folder cannot be read: {error.strerror}") from error
        above |= {place}
        left += [(f"{path}/{name}", os.path.realpath(f"{place}/{name}"), above) for name in names]


def _read_file(path: str) -> np.ndarray:
    if not os.path.isfile(path):
        raise UserError(f"{path}: not a file, or a link to none; remove it")
    return decode_image(read_bytes(path), path)


def _load_npz(path: Path, split: Literal["train", "test"]) -> ImageSet:
    names = [f"{split}_bytes", f"{split}_offsets", f"{split}_labels", "classes"]
    arrays, name = {}, names[0]
    refuse_special(path)
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            size, unpacked = os.path.getsize(path), sum(member.file_size for member in file.zip.infolist())
            bomb = unpacked > _MOST_UNPACKED + 20 * size  # labels may be all alike, encoded images shrink no more
            for name in () if bomb else names:
                arrays[name] = file[name]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: set --data.root to the .npz file") from None
    except KeyError:
        raise UserError(f"{path}: lacks {name}; it needs {', '.join(names)}") from None
    except MemoryError as error:
        raise UserError(f"{path}: there is not enough memory to read {name}, or it is damaged") from error
    except Exception as error:  # zipfile, zlib, tokenize and numpy have a dozen kinds
        raise UserError(f"{path}: {name} cannot be read as a plain array (damaged, or not an .npz file)") from error
    if bomb:
        raise UserError(f"{path}: {size:,} bytes that unpack to {unpacked:,}: no encoded images, or damaged")
    data, offsets, labels, classes = (arrays[name] for name in names)
    n = len(labels) if labels.ndim == 1 else -1
    checks = (
        (names[0], data.ndim == 1 and data.dtype == np.uint8, "must be uint8 [bytes]"),
        (names[2], n > 0 and labels.dtype.kind in "iu", "must be whole numbers [n], one an image"),
        (names[1], offsets.shape == (n + 1,) and offsets.dtype.kind in "iu", "must be whole numbers [n + 1]"),
        ("classes", classes.ndim == 1 and classes.dtype.kind == "U" and len(classes) > 1, "must be two names or more"),
    )
    for name, right, rule in checks:
        if not right:
            raise UserError(f"{path}: {name} {rule}, but is {arrays[name].dtype} {list(arrays[name].shape)}")
    offsets, labels = offsets.astype(np.int64), labels.astype(np.int64)
    if offsets[0] < 0 or offsets[-1] > len(data) or (np.diff(offsets) < 0).any():
        raise UserError(f"{path}: {names[1]} must rise from 0 to the {len(data)} bytes of {names[0]}")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise UserError(f"{path}: {names[2]} has labels {labels.min()} to {labels.max()}, but {len(classes)} classes")
    ranges = np.stack([offsets[:-1], offsets[1:]], axis=1)
    decode = partial(_decode_range, data, f"{path}: {names[0]}")
    return ImageSet(str(path), classes.tolist(), labels, ranges, decode, data)


def _decode_range(data: np.ndarray, name: str, span: np.ndarray) -> np.ndarray:
    start, end = span
    return decode_image(data[start:end], f"{name}[{start}:{end}]")
