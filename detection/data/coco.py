"""COCO ground truth: read, checked, and turned into training records and evaluation data.

Inconsistent entries raise a ``UserError`` that names them. Boxes that merely cannot be trained on (of zero or negative
size, outside their image) are left out of the records and counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detection.category_names import category_name
from detection.data.coco_json import MAX_COORDINATE, Fault, bbox_of, id_of, is_text, read_entries, read_json, show
from detection.data.faults import DataFault
from detection.data.orientation import set_layouts
from detection.settings import EvalDataSettings, Orientation
from divdet.engine.errors import UserError
from divdet.engine.fingerprint import digest, file_sizes

BOX_TOLERANCE = 0.01  # pixels: COCO writes boxes with two decimals, so x + w passes the border by rounding alone

STRIPPED = "category names with surrounding white space, which is removed"
UNSIZED = "images of no given width and height, whose boxes are cut at the border when the image is read"


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
        images: in file order.
        category_ids: ascending; the index is the label.
        names: of the categories, by label.
        counts: what was dropped or clipped in the records, or will be when an image is read.
        truth: the annotations for evaluation, nothing dropped or clipped.
    """

    path: Path
    images: list[ImageRecord]
    category_ids: list[int]
    names: list[str]
    counts: Counter[str]
    truth: Columns = field(repr=False)

    def describe(self) -> str:
        """One line: what the file holds and what was dropped or clipped."""
        boxes = sum(len(record.boxes) for record in self.images)
        empty = sum(len(record.boxes) == 0 for record in self.images)
        held = f"{len(self.images)} images ({empty} without objects), {boxes} boxes, {len(self.names)} categories"
        return "; ".join([held, *(f"{count} {what}" for what, count in self.counts.items())])

    def fingerprint(self) -> str:
        """A hash of the annotations and of the image files' names and sizes; see ``divdet.engine.fingerprint``."""
        return digest(
            self.category_ids,
            self.names,
            [(image.id, image.file_name, image.width, image.height) for image in self.images],
            file_sizes(image.path for image in self.images),
            *vars(self.truth).values(),
        )


def load_annotations(
    annotations_path: str | Path, images_dir: str | Path | None, orientation: Orientation = "auto"
) -> CocoAnnotations:
    """Read and check a COCO ground-truth file.

    Args:
        annotations_path: the file. Missing ``iscrowd`` means 0 and missing ``area`` width x height. Boxes of images
            without ``width`` and ``height`` are not clipped here (use ``clip_boxes`` after decoding).
        images_dir: folder of the images, which must exist; None: no image is looked for, to score a results file.
        orientation: how images with an EXIF rotation are read, see ``set_layouts``.

    Raises:
        UserError: for a file that is not COCO ground truth, for inconsistent or malformed entries, for a ``file_name``
            that leaves ``images_dir`` (by its text or through a link), and for missing images.
    """
    path = Path(annotations_path)
    data = read_json(path)
    lists = ("images", "annotations", "categories")
    absent = [key for key in lists if key not in data] if isinstance(data, dict) else lists
    if absent:
        raise UserError(f"{path}: not COCO ground truth: it has no {', '.join(absent)}")
    names, stripped = _read_categories(path, data["categories"])
    images = _read_images(path, data["images"], images_dir)
    columns = _read_annotations(path, data["annotations"], images, list(names))
    turned = Counter() if images_dir is None else set_layouts(images, columns, orientation)
    counts = _fill_records(images, columns) + Counter({STRIPPED: stripped}) + turned
    return CocoAnnotations(path, images, list(names), list(names.values()), counts, columns)


def read_annotations(
    data: EvalDataSettings, split: Literal["train", "val"], faults: list[DataFault] | None = None
) -> CocoAnnotations:
    """Load the annotations that a configuration names; raise UserError where it names none."""
    keys = (f"{split}_annotations", f"{split}_images")
    for key in keys:
        if not getattr(data, key):
            raise UserError(f"data.{key} is not set: give it in the config file or as --data.{key}")
    return load_annotations(*(getattr(data, key) for key in keys), data.orientation)


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


def check_same_categories(category_ids: Sequence[int], names: Sequence[str], annotations: CocoAnnotations) -> None:
    """Raise UserError unless the file has exactly the model's categories: the same ids with the same names."""
    model = dict(zip(category_ids, names, strict=True))
    file = dict(zip(annotations.category_ids, annotations.names, strict=True))
    for number in sorted(model.keys() | file.keys()):
        theirs, own = (show(side[number]) if number in side else "absent" for side in (file, model))
        if theirs != own:
            raise UserError(
                f"{annotations.path}: its {len(file)} categories are not the model's {len(model)}: id {number} is "
                f"{theirs} in the file and {own} in the model; "
                "use annotations with the categories that the model was trained on"
            )


def _read_categories(path: Path, entries: Any) -> tuple[dict[int, str], int]:
    """Names by ascending id, and how many of them had surrounding white space."""
    seen: set[int] = set()

    def read(entry: dict[str, Any]) -> tuple[int, str]:
        number = _own_id(entry, seen, "category")
        if "name" not in entry:
            raise Fault("has no name")
        name = category_name(entry["name"])
        if name is None:
            what = "is empty or holds control characters" if isinstance(entry["name"], str) else "is not text"
            raise Fault(f"has name {show(entry['name'])}, which {what}; rename the category")
        return number, name

    names = read_entries(path, "categories", entries, read)
    if not names:
        raise UserError(f"{path}: lists no categories: add those that the annotations use")
    stripped = sum(name != entry["name"] for (_, name), entry in zip(names, entries, strict=True))
    return dict(sorted(names)), stripped


def _read_images(path: Path, entries: Any, images_dir: str | Path | None) -> list[ImageRecord]:
    folder = None
    if images_dir is not None:
        folder = os.path.realpath(images_dir)
        if not os.path.isdir(folder):
            raise UserError(f"{images_dir}: not a folder: it should hold the images of {path}")
    seen: set[int] = set()

    def read(entry: dict[str, Any]) -> ImageRecord:
        number = _own_id(entry, seen, "image")
        for key in ("width", "height"):
            value = entry.get(key)
            if value is not None and not (type(value) is int and 0 < value <= MAX_COORDINATE):
                raise Fault(f"has {key} {show(value)}, which is not a positive integer")
        if "file_name" not in entry:
            raise Fault("has no file_name")
        name = entry["file_name"]
        if not is_text(name):
            raise Fault(f"has file_name {show(name)}, which is no file's name")
        if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir:
            raise Fault(f"has file_name {show(name)}, which leaves the image folder; make it relative to that folder")
        if folder and not os.path.realpath(os.path.join(folder, name)).startswith(os.path.join(folder, "")):
            raise Fault(f"has file_name {show(name)}, a link out of the image folder; put the image itself there")
        return ImageRecord(number, name, Path(images_dir or "", name), entry.get("width"), entry.get("height"))

    records = read_entries(path, "images", entries, read)
    if not records:
        raise UserError(f"{path}: lists no images: an empty data set can neither be trained on nor evaluated")
    missing = [record for record in records if folder and not os.path.isfile(record.path)]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of its {len(records)} images are not in {images_dir}, the first is "
            f"{show(missing[0].file_name)}; correct the image folder or remove the images from the file"
        )
    return records


def _read_annotations(path: Path, entries: Any, images: list[ImageRecord], category_ids: list[int]) -> Columns:
    indices = {image.id: index for index, image in enumerate(images)}
    labels = {category_id: label for label, category_id in enumerate(category_ids)}
    seen: set[int] = set()

    def read(entry: dict[str, Any]) -> tuple[int, int, list[float], float, int]:
        image_id, category_id, bbox = id_of(entry, "image_id"), id_of(entry, "category_id"), bbox_of(entry)
        if "id" in entry:
            _own_id(entry, seen, "annotation")
        if image_id not in indices:
            raise Fault(f"has image_id {image_id}, which images does not list; add the image or remove the annotation")
        if category_id not in labels:
            unknown = f"has category_id {category_id}, which categories does not list"
            raise Fault(f"{unknown}; add the category or remove the annotation")
        crowd, area = entry.get("iscrowd", 0), entry.get("area", bbox[2] * bbox[3])
        if crowd not in (0, 1):
            raise Fault(f"has iscrowd {show(crowd)}, which is neither 0 nor 1")
        if not (type(area) in (int, float) and abs(area) <= MAX_COORDINATE**2):
            raise Fault(f"has area {show(area)}, which is not a finite number")
        return indices[image_id], labels[category_id], bbox, area, crowd

    return Columns(*columns_of(read_entries(path, "annotations", entries, read), area=np.float64, crowd=bool))


def columns_of(rows: list[tuple], **others: type) -> list[np.ndarray]:
    """The columns of n rows (image, label, bbox, *others): int64 [n] twice, float64 [n, 4], then [n] of other types."""
    dtype = [("image", np.int64), ("label", np.int64), ("bbox", np.float64, 4), *others.items()]
    table = np.array(rows, dtype)
    return [np.ascontiguousarray(table[name]) for name, *_ in dtype]


def _own_id(entry: dict[str, Any], seen: set[int], kind: str) -> int:
    """The entry's id, unlike those that are ``seen``."""
    number = id_of(entry, "id")
    if number in seen:
        raise Fault(f"has id {number}, which an earlier {kind} has too; ids must be unique")
    seen.add(number)
    return number


def _fill_records(images: list[ImageRecord], columns: Columns) -> Counter[str]:
    """Give each image its boxes, clipped where its size is known; count what was dropped or clipped."""
    given = columns.bbox.copy()
    given[:, 2:] += given[:, :2]
    # NaN: the image's size is unknown, so its boxes are not clipped.
    size = np.array([[image.width or np.nan, image.height or np.nan] for image in images])[columns.image]
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
