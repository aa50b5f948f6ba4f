"""Annotated images in memory, whatever format they came from."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from divdet.engine.fingerprint import digest, file_sizes
from divdet.engine.words import counted, named

Split = Literal["train", "val"]
NAMES: dict[Split, str] = {"train": "training", "val": "validation"}

BOX_TOLERANCE = 0.01  # pixels: COCO writes boxes with two decimals, so x + w passes the border by rounding alone

UNSIZED = "images of no usable width and height, whose boxes are cut at the border when the image is read"


@dataclass
class ImageRecord:
    """One image and the objects to train on.

    Attributes:
        path: in the image folder; ``file_name`` where no folder was given.
        width, height: pixels of the layout that is read, where known.
        boxes: float32 [n, 4], x1 y1 x2 y2 in pixels of that layout, clipped where its size is known.
        labels: int64 [n], 0-based.
        crowd: bool [n], true for a box around a crowd, which training leaves out.
        upright: whether the EXIF orientation is applied when the image is read.
    """

    id: int
    file_name: str
    path: Path
    width: int | None
    height: int | None
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    crowd: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    upright: bool = False


@dataclass
class Columns:
    """All n annotations as given, in file order: a tenth of the memory of the parsed file.

    Attributes:
        image: int64 [n], index into the images.
        label: int64 [n], 0-based.
        bbox: float64 [n, 4], x y width height in pixels.
        area: float64 [n], square pixels.
        crowd: bool [n].
    """

    image: np.ndarray
    label: np.ndarray
    bbox: np.ndarray
    area: np.ndarray
    crowd: np.ndarray


@dataclass
class CocoAnnotations:
    """A ground-truth file.

    Attributes:
        images: in file order, or in that of ``by_path``.
        category_ids: by label; ascending, unless ``match_categories`` has given the labels of a model. None for a
            class of the model that the file does not list.
        names: of the categories, by label.
        counts: what was changed, dropped or clipped, or will be when an image is read.
        truth: the annotations for evaluation, nothing dropped or clipped.
        named: whether images are known by file name, as in YOLO and VOC, so that their ids mean nothing elsewhere.
    """

    path: Path
    images: list[ImageRecord]
    category_ids: list[int | None]
    names: list[str]
    counts: Counter[str]
    truth: Columns = field(repr=False)
    named: bool = False

    def describe(self) -> str:
        """One line: what the file holds and what was changed, dropped or clipped."""
        boxes = sum(len(record.boxes) for record in self.images)
        empty = sum(len(record.boxes) == 0 for record in self.images)
        crowds = sum(int(record.crowd.sum()) for record in self.images)
        held = f"{counted(len(self.images), 'image')} ({empty:,} without objects), {counted(boxes, 'box', 'boxes')}"
        held += f" ({counted(crowds, 'crowd')})" * bool(crowds)
        held += f", {counted(len(self.names), 'category', 'categories')}"
        return "; ".join([held, *self.remarks()])

    def remarks(self) -> list[str]:
        """The classes that no image shows, and ``counts``."""
        used = set(np.unique(self.truth.label).tolist())
        own = enumerate(zip(self.category_ids, self.names, strict=True))
        empty = [name for label, (number, name) in own if number is not None and label not in used]
        first = f"{counted(len(empty), 'class', 'classes')} without objects ({named(empty)})"
        return [first] * bool(empty) + [f"{count} {what}" for what, count in self.counts.items()]

    def fingerprint(self) -> str:
        """A hash of the annotations and of the image files' names and sizes; see ``divdet.engine.fingerprint``."""
        return digest(
            self.category_ids,
            self.names,
            [(image.id, image.file_name, image.width, image.height) for image in self.images],
            file_sizes(image.path for image in self.images),
            *vars(self.truth).values(),
        )


def part_of(annotations: CocoAnnotations, kept: np.ndarray) -> CocoAnnotations:
    """The annotations of some images: bool [n]."""
    rows = kept[annotations.truth.image]
    columns = {name: values[rows] for name, values in vars(annotations.truth).items()}
    columns["image"] = (np.cumsum(kept) - 1)[columns["image"]]
    images = [record for record, keep in zip(annotations.images, kept, strict=True) if keep]
    return replace(annotations, images=images, truth=Columns(**columns))


def by_path(annotations: CocoAnnotations) -> CocoAnnotations:
    """The same annotations with images in the order of their paths, 2 before 10, in whatever order they were read."""
    paths = [record.path.as_posix() for record in annotations.images]
    padded = [re.sub(r"\d+", lambda digits: digits[0].zfill(20), path) for path in paths]
    order = sorted(range(len(paths)), key=lambda index: (padded[index], paths[index]))
    truth = replace(annotations.truth, image=np.argsort(order)[annotations.truth.image])
    return replace(annotations, images=[annotations.images[index] for index in order], truth=truth)


def columns_of(rows: list[tuple], **others: type) -> list[np.ndarray]:
    """The columns of n rows (image, label, bbox, *others): int64 [n] twice, float64 [n, 4], then [n] of other types."""
    dtype = [("image", np.int64), ("label", np.int64), ("bbox", np.float64, 4), *others.items()]
    table = np.array(rows, dtype)
    return [np.ascontiguousarray(table[name]) for name, *_ in dtype]


def sizes_of(images: list[ImageRecord]) -> np.ndarray:
    """Width and height of n images, float64 [n, 2]; NaN where unknown."""
    return np.array([(image.width or np.nan, image.height or np.nan) for image in images]).reshape(-1, 2)


def clip_boxes(
    boxes: np.ndarray, width: float | np.ndarray, height: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes [n, 4] (x1 y1 x2 y2, pixels) to images of ``width`` and ``height`` (numbers or [n]).

    Returns new boxes of the same dtype, and which of them still have an area: bool [n].
    """
    clipped = boxes.copy()
    clipped[:, 0::2] = np.clip(boxes[:, 0::2], 0, np.reshape(width, (-1, 1)))
    clipped[:, 1::2] = np.clip(boxes[:, 1::2], 0, np.reshape(height, (-1, 1)))
    return clipped, _has_area(clipped)


def fill_records(images: list[ImageRecord], columns: Columns) -> Counter[str]:
    """Give each image its boxes, clipped where its size is known; count what was dropped or clipped."""
    given = columns.bbox.copy()
    given[:, 2:] += given[:, :2]
    size = sizes_of(images)[columns.image]
    bounded = np.isfinite(size).all(axis=1)
    clipped = given.copy()
    clipped[bounded] = clip_boxes(given[bounded], size[bounded, 0], size[bounded, 1])[0]
    moved = (np.abs(clipped - given) > BOX_TOLERANCE).any(axis=1)
    # Sizes are compared in float32, as in the records, where a small width may round to zero.
    clipped = clipped.astype(np.float32)
    sized, inside = _has_area(given.astype(np.float32)), _has_area(clipped)
    counts = {
        "boxes of zero or negative size dropped": int(np.sum(~sized)),
        "boxes outside their image dropped": int(np.sum(sized & ~inside)),
        "boxes partly outside their image clipped": int(np.sum(sized & inside & moved)),
        UNSIZED: sum(not (image.width and image.height) for image in images),
    }
    kept = np.flatnonzero(sized & inside)
    kept = kept[np.argsort(columns.image[kept], kind="stable")]
    ends = np.cumsum(np.bincount(columns.image[kept], minlength=len(images)))
    for record, rows in zip(images, np.split(kept, ends[:-1]), strict=True):
        record.boxes, record.labels, record.crowd = clipped[rows], columns.label[rows], columns.crowd[rows]
    return +Counter(counts)


def _has_area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
