"""Labeled images: CIFAR, SVHN, ImageNet, folders and .npz files."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from torch.distributed import is_torchelastic_launched

from classification.data.class_names import SVHN, imagenet_classes
from classification.settings import DataSettings, EvalDataSettings
from divdet.engine.checkpoint import is_text
from divdet.engine.errors import UserError
from divdet.engine.files import refuse_special
from divdet.engine.fingerprint import digest, file_sizes
from divdet.engine.images import decode_image, read_bytes
from divdet.engine.sampling import derived_seed

Split = Literal["train", "val", "extra"]  # extra: SVHN's further training images


@dataclass(frozen=True)
class ImageSet:
    """Labeled images."""

    source: str  # the file or folder, for messages
    classes: list[str]  # names by label
    labels: np.ndarray  # int64 [n]
    items: np.ndarray  # paths [n], uint8 RGB [n,H,W,3], or ranges of bytes in `content`, [n,2]
    content: np.ndarray | None = None  # encoded images, uint8 [bytes]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> np.ndarray:
        """The image as uint8 RGB [H,W,3]; raises UserError, naming it, where it cannot be decoded."""
        item = self.items[index]
        if self.content is not None:
            start, end = item
            return decode_image(self.content[start:end], f"{self.source}: bytes[{start}:{end}]")
        if not isinstance(item, str):
            return item
        if not os.path.isfile(item):
            raise UserError(f"{item}: not a file, or a link to none; remove it")
        return decode_image(read_bytes(item), item)

    def name(self, index: int) -> str:
        """What a user calls the image: its path, or its number in a file of many."""
        item = self.items[index]
        return str(item) if isinstance(item, str) else f"image {index} of {self.source}"

    def fingerprint(self) -> str:
        """A hash of classes, labels and images: the pixels in memory, or the relative paths and sizes of files."""
        if self.items.dtype.kind == "U":
            names = [path.removeprefix(self.source) for path in self.items.tolist()]
            return digest(self.classes, self.labels, names, file_sizes(self.items.tolist()))
        return digest(self.classes, self.labels, self.items, self.content)


def load_images(settings: EvalDataSettings, split: Split) -> ImageSet:
    """Loads one split. CIFAR, SVHN and .npz files are held in memory, the latter encoded."""
    try:
        root = Path(settings.root).expanduser()
    except RuntimeError as error:
        raise UserError(f"data.root is {settings.root}: there is no such user; write the folder in full") from error
    loaders = {"imagenet": _load_imagenet, "folder": _load_folder, "npz": _load_npz}
    if settings.dataset in loaders:
        return loaders[settings.dataset](root, split)
    return _load_small_images(settings, root, split)


def load_training_images(settings: DataSettings, seed: int) -> tuple[ImageSet, ImageSet]:
    """Loads the training images and the evaluation images; UserError also where the classes of the two differ."""
    train, val = load_images(settings, "train"), load_images(settings, "val")
    check_classes(val, train.classes, f"the classes of {train.source}")
    if settings.extra:
        extra = load_images(settings, "extra")
        labels, items = np.concatenate([train.labels, extra.labels]), np.concatenate([train.items, extra.items])
        train = replace(train, labels=labels, items=items)
    if settings.limit is not None and settings.limit < len(train):
        order = np.random.default_rng(derived_seed(seed, "limit")).permutation(len(train))[: settings.limit]
        train = replace(train, labels=train.labels[order], items=train.items[order])
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
    """Side of the network's input in pixels: ``settings.image_size``, or by default as `EvalDataSettings` says."""
    if settings.image_size is not None:
        return settings.image_size
    if settings.dataset == "npz":
        size = min(images.read(0).shape[:2])
        if not 8 <= size <= 4096:
            raise UserError(f"{images.source}: the shorter side of its first image is {size}: set --data.image_size")
        return size
    return 32 if settings.dataset in ("cifar10", "cifar100", "svhn") else 224


def _load_small_images(settings: EvalDataSettings, root: Path, split: Split) -> ImageSet:
    """Loads CIFAR or SVHN by torchvision, which compares checksums before it unpickles anything."""
    from torchvision import datasets  # slow to import

    # Under torchrun all processes would write the same files.
    download = settings.download and not is_torchelastic_launched()
    part = {"val": "test"}.get(split, split)
    cifar = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}.get(settings.dataset)
    what = f"{cifar.base_folder} folder" if cifar else f"{part}_32x32.mat"
    try:
        if cifar:
            data = cifar(str(root), train=split == "train", download=download)
            classes, labels, images = list(data.classes), data.targets, data.data
        else:
            data = datasets.SVHN(str(root), part, download=download)
            classes, labels, images = SVHN, data.labels, np.ascontiguousarray(data.data.transpose(0, 2, 3, 1))
    except ImportError as error:
        raise UserError(f"{root}: reading SVHN needs scipy: pip install scipy") from error
    except (RuntimeError, OSError, ValueError) as error:
        if download:
            raise UserError(f"{root}: {what} cannot be fetched ({error}); put it there by hand") from error
        fetch = "add --data.download true (and start it once without torchrun)"
        raise UserError(f"{root}: holds no intact {what}: {fetch}, or set --data.root") from error
    return ImageSet(str(root), classes, np.array(labels, np.int64), images)


def _load_imagenet(root: Path, split: Split) -> ImageSet:
    if os.path.isdir(root / split):  # also false for a name that is too long
        loose = [path.name for path in (root / split).iterdir() if path.suffix.lower() in (".tar", ".jpeg")]
        if loose:
            raise UserError(f"{root / split}: holds a loose {loose[0]}, so its unpacking was cut off: delete it")
    elif is_torchelastic_launched():
        raise UserError(
            f"{root}: holds no {split}/: start it once without torchrun, which unpacks the official archives, or set "
            "--data.root"
        )
    else:
        from torchvision.datasets import ImageNet  # slow to import

        try:
            ImageNet(str(root), split)  # unpacks the official archives
        except ImportError as error:
            raise UserError(f"{root}: unpacking the official archives needs scipy: pip install scipy") from error
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"{root}: holds neither {split}/ with a folder per class nor the official archives (devkit and {split} "
                "images): set --data.root"
            ) from error
    images = _load_folder(root, split)
    # In all of ImageNet the folders are WordNet ids, in the order of the names.
    whole = len(images.classes) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in images.classes)
    return replace(images, classes=imagenet_classes()) if whole else images


def _load_folder(root: Path, split: Split) -> ImageSet:
    from torchvision.datasets import ImageFolder  # slow to import
    from torchvision.datasets.folder import IMG_EXTENSIONS

    folder = root / split
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder: --data.root needs train/ and val/ with a folder per class")
    left_out = _check_tree(folder, IMG_EXTENSIONS)
    try:
        data = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise UserError(f"{folder}: {error}") from error
    for name in data.classes:
        if not is_text(name):
            raise UserError(f"{folder}: the class folder {name} has a name that is not UTF-8: rename it")
    if len(data.classes) < 2:
        raise UserError(f"{folder}: holds the one class folder {data.classes[0]}: at least 2 are needed")
    if left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in left_out.most_common(9))
        taken = ", ".join(suffix[1:] for suffix in IMG_EXTENSIONS)
        print(f"note: {folder}: files left out: {kinds}; images are {taken} in a folder per class")
    paths = np.array([path for path, _ in data.samples])
    return ImageSet(str(folder), data.classes, np.array(data.targets, np.int64), paths)


def _check_tree(folder: Path, suffixes: tuple[str, ...]) -> Counter[str]:
    """Counts by suffix the files that ImageFolder skips: in no folder of a class, or without one of ``suffixes``.

    It rejects symlink cycles, many links to the same folders, and folders that cannot be read. ImageFolder would not
    end for the former, and would skip the latter.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: the folder cannot be read: {error.strerror}") from error

    above = {str(folder): {os.path.realpath(folder)}}  # by path, the real paths of a folder and of those that it is in
    places: set[str] = set()
    skipped: Counter[str] = Counter()
    for visits, (path, names, files) in enumerate(os.walk(folder, onerror=refuse, followlinks=True), 1):
        real = above.pop(path)
        places |= real
        if visits > 10 * len(places) + 1000:
            raise UserError(f"{path}: links lead to its place, and others, in too many ways; remove some")
        for name in names:
            inner = os.path.join(path, name)
            place = os.path.realpath(inner)
            if place in real:
                raise UserError(f"{inner}: a link to a folder that it is in leads round in circles; remove it")
            above[inner] = real | {place}
        for name in files:
            if not name.startswith(".") and (path == str(folder) or not name.lower().endswith(suffixes)):
                skipped[os.path.splitext(name)[1].lower() or "without suffix"] += 1
    return skipped


def _load_npz(path: Path, split: Split) -> ImageSet:
    part = "train" if split == "train" else "test"
    names = [f"{part}_bytes", f"{part}_offsets", f"{part}_labels", "classes"]
    arrays, name = {}, names[0]
    refuse_special(path)
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            size, unpacked = os.path.getsize(path), sum(member.file_size for member in file.zip.infolist())
            bomb = unpacked > 2**26 + 20 * size  # labels may shrink a lot, encoded images do not
            for name in () if bomb else names:
                arrays[name] = file[name]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: set --data.root to the .npz file") from None
    except KeyError:
        raise UserError(f"{path}: lacks {name}; it needs {', '.join(names)}") from None
    except MemoryError as error:
        raise UserError(f"{path}: there is not enough memory to read {name}, or it is damaged") from error
    except Exception as error:  # zipfile, zlib, tokenize and numpy raise a dozen types
        raise UserError(f"{path}: {name} cannot be read as a plain array (damaged, or not an .npz file)") from error
    if bomb:
        raise UserError(f"{path}: {size:,} bytes that unpack to {unpacked:,}: no encoded images, or damaged")
    data, offsets, labels, classes = arrays.values()
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
    return ImageSet(str(path), classes.tolist(), labels, ranges, data)
