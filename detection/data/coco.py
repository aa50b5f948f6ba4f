"""Ground truth in COCO format: read, validated, and turned into training records and an evaluation data set.

Whatever makes the file inconsistent is a ``UserError`` that names the entry; boxes that merely cannot be
trained on (of zero or negative size, outside their image) are left out of the records and counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from detection.category_names import category_name
from detection.data.coco_json import (
    MAX_COORDINATE,
    bbox_problem,
    check_objects,
    entry_error,
    id_problem,
    is_text,
    read_json,
    show,
)
from detection.data.orientation import set_layouts
from detection.settings import Orientation
from divdet.engine.errors import UserError

BOX_TOLERANCE = 0.01  # pixels: COCO writes boxes with two decimals, so x + w passes the border by rounding alone

NO_SIZE = "boxes of zero or negative size dropped"
OUTSIDE = "boxes outside their image dropped"
CLIPPED = "boxes partly outside their image clipped"
STRIPPED = "category names with surrounding white space, which is removed"
UNSIZED = "images of no given width and height, whose boxes are cut at the border when the image is read"


@dataclass
class ImageRecord:
    """One image and its objects. ``path`` is inside the image folder, or ``file_name`` where no folder was given.

    width, height: of the layout that is read, where known. upright: whether the EXIF orientation is applied.
    boxes: float32 [n, 4], x1 y1 x2 y2 in pixels of that layout, inside the image where its size is known.
    labels: int64 [n], 0-based. crowd: bool [n], true for a box around a crowd, which training leaves out.
    """

    id: int
    file_name: str
    path: Path
    width: int | None
    height: int | None
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    upright: bool = False


@dataclass
class CocoAnnotations:
    """A ground-truth file. Index in ``category_ids`` (ascending) and ``names`` is the label; ``images`` is in file
    order; ``counts`` says what was dropped or clipped on the way into the records, or will be when an image is read."""

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


@dataclass
class Columns:
    """All n annotations as given, in file order: arrays take a tenth of the memory of the parsed file."""

    image: np.ndarray  # int64 [n], position in the list of images
    label: np.ndarray  # int64 [n]
    bbox: np.ndarray  # float64 [n, 4], x y width height
    area: np.ndarray  # float64 [n]
    crowd: np.ndarray  # int64 [n], 0 or 1


def load_annotations(
    annotations_path: str | Path, images_dir: str | Path | None, orientation: Orientation = "auto"
) -> CocoAnnotations:
    """Read a COCO ground-truth file and check it whole, images' existence included.

    Missing ``iscrowd`` means 0, missing ``area`` width x height, and images need no ``width`` and ``height``:
    without them boxes are not clipped here (use ``clip_boxes`` after decoding). ``images_dir`` None checks no image
    files, for scoring a results file. ``orientation``: how images that EXIF turns are read, see ``set_layouts``.

    Raises UserError for a file that is not COCO ground truth, for inconsistent or malformed entries, for a
    ``file_name`` that leaves ``images_dir`` (by its text or through a link), and for images that do not exist.
    """
    path = Path(annotations_path)
    data = read_json(path)
    lists = ("images", "annotations", "categories")
    absent = [key for key in lists if key not in data] if isinstance(data, dict) else lists
    if absent:
        raise UserError(f"{path}: not COCO ground truth: it has no {', '.join(absent)}")
    entries = {key: check_objects(path, data[key], key) for key in lists}
    names_by_id, stripped = _read_categories(path, entries["categories"])
    category_ids = sorted(names_by_id)
    images = _read_images(path, entries["images"], images_dir)
    labels = {category_id: label for label, category_id in enumerate(category_ids)}
    positions = {image.id: position for position, image in enumerate(images)}
    columns = _read_annotations(path, entries["annotations"], positions, labels)
    turned = Counter() if images_dir is None else set_layouts(images, columns, orientation)
    counts = _fill_records(images, columns) + Counter({STRIPPED: stripped}) + turned
    return CocoAnnotations(path, images, category_ids, [names_by_id[i] for i in category_ids], counts, columns)


def clip_boxes(
    boxes: np.ndarray, width: float | np.ndarray, height: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cut boxes [n, 4] (x1 y1 x2 y2, pixels) at the border of their image.

    ``width`` and ``height``: of one image, or [n]. Returns new boxes of the same dtype, and bool [n]: which of them
    have positive width and height left.
    """
    clipped = boxes.copy()
    clipped[:, 0::2] = np.clip(boxes[:, 0::2], 0, np.reshape(width, (-1, 1)))
    clipped[:, 1::2] = np.clip(boxes[:, 1::2], 0, np.reshape(height, (-1, 1)))
    return clipped, _has_area(clipped)


def check_same_categories(category_ids: Sequence[int], names: Sequence[str], annotations: CocoAnnotations) -> None:
    """Raise UserError unless the file has exactly a model's categories: the same ids with the same names."""
    model = dict(zip(category_ids, names, strict=True))
    file = dict(zip(annotations.category_ids, annotations.names, strict=True))
    if model == file:
        return
    differing = min(i for i in model.keys() | file.keys() if model.get(i) != file.get(i))
    raise UserError(
        f"{annotations.path}: its {len(file)} categories are not the model's {len(model)}: id {differing} is "
        f"{_named(file.get(differing))} in the file and {_named(model.get(differing))} in the model; "
        "use annotations with the categories that the model was trained on"
    )


def _read_categories(path: Path, entries: list[dict[str, Any]]) -> tuple[dict[int, str], int]:
    """Names by id, and how many of them had surrounding white space, which is removed."""
    names: dict[int, str] = {}
    stripped = 0
    for index, entry in enumerate(entries):
        problem = id_problem(entry, "id")
        if problem is None and entry["id"] in names:
            problem = f"has id {entry['id']}, which an earlier category has too; ids must be unique"
        name = category_name(entry.get("name"))
        if problem is None and "name" not in entry:
            problem = "has no name"
        elif problem is None and not name:
            what = "is empty or holds control characters" if isinstance(entry["name"], str) else "is not text"
            problem = f"has name {show(entry['name'])}, which {what}; rename the category"
        if problem:
            raise entry_error(path, "categories", index, entry, problem)
        names[entry["id"]] = name
        stripped += name != entry["name"]
    if not names:
        raise UserError(f"{path}: lists no categories: add those that the annotations use")
    return names, stripped


def _read_images(path: Path, entries: list[dict[str, Any]], images_dir: str | Path | None) -> list[ImageRecord]:
    if not entries:
        raise UserError(f"{path}: lists no images: an empty data set can neither be trained on nor evaluated")
    folder = None
    if images_dir is not None:
        folder = os.path.realpath(images_dir)
        if not os.path.isdir(folder):
            raise UserError(f"{images_dir}: not a folder: it should hold the images of {path}")
    records, seen, missing = [], set(), []
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    for index, entry in enumerate(entries):
        problem = _image_problem(entry, seen, folder)
        if problem:
            raise entry_error(path, "images", index, entry, problem)
        seen.add(entry["id"])
        name = entry["file_name"]
        location = Path(name if images_dir is None else os.path.join(images_dir, name))
        if folder is not None and not os.path.isfile(location):
            missing.append(name)
        records.append(ImageRecord(entry["id"], name, location, entry.get("width"), entry.get("height"), *nothing))
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of its {len(records)} images are not in {images_dir}, the first is "
            f"{show(missing[0])}; correct the image folder or remove the images from the file"
        )
    return records


def _image_problem(entry: dict[str, Any], seen: set[int], folder: str | None) -> str | None:
    problem = id_problem(entry, "id")
    if problem:
        return problem
    if entry["id"] in seen:
        return f"has id {entry['id']}, which an earlier image has too; ids must be unique"
    for key in ("width", "height"):
        value = entry.get(key)
        if value is not None and not (type(value) is int and 0 < value <= MAX_COORDINATE):
            return f"has {key} {show(value)}, which is not a positive integer"
    name = entry.get("file_name")
    if not is_text(name):
        return f"has file_name {show(name)}, which is no file's name" if "file_name" in entry else "has no file_name"
    if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir:
        return f"has file_name {show(name)}, which leaves the image folder; make it relative to that folder"
    if folder is not None and not os.path.realpath(os.path.join(folder, name)).startswith(os.path.join(folder, "")):
        return f"has file_name {show(name)}, a link out of the image folder; put the image itself there"
    return None


def _read_annotations(
    path: Path, entries: list[dict[str, Any]], positions: dict[int, int], labels: dict[int, int]
) -> Columns:
    image, label, bbox, area, crowd = [], [], [], [], []
    seen: set[int] = set()
    for index, entry in enumerate(entries):
        problem = _annotation_problem(entry, seen, positions, labels)
        if problem:
            raise entry_error(path, "annotations", index, entry, problem)
        if "id" in entry:
            seen.add(entry["id"])
        image.append(positions[entry["image_id"]])
        label.append(labels[entry["category_id"]])
        bbox.append(entry["bbox"])
        area.append(entry["area"] if "area" in entry else entry["bbox"][2] * entry["bbox"][3])
        crowd.append(entry.get("iscrowd", 0))
    return Columns(
        np.array(image, np.int64),
        np.array(label, np.int64),
        np.array(bbox, np.float64).reshape(-1, 4),
        np.array(area, np.float64),
        np.array(crowd, np.int64),
    )


def _annotation_problem(
    entry: dict[str, Any], seen: set[int], positions: dict[int, int], labels: dict[int, int]
) -> str | None:
    problem = id_problem(entry, "image_id") or id_problem(entry, "category_id") or bbox_problem(entry)
    if problem:
        return problem
    if "id" in entry:
        problem = id_problem(entry, "id")
        if problem:
            return problem
        if entry["id"] in seen:
            return f"has id {entry['id']}, which an earlier annotation has too; ids must be unique"
    if entry["image_id"] not in positions:
        return f"has image_id {entry['image_id']}, which images does not list; add the image or remove the annotation"
    if entry["category_id"] not in labels:
        return (
            f"has category_id {entry['category_id']}, which categories does not list; "
            "add the category or remove the annotation"
        )
    if entry.get("iscrowd", 0) not in (0, 1):
        return f"has iscrowd {show(entry['iscrowd'])}, which is neither 0 nor 1"
    if "area" in entry and not (type(entry["area"]) in (int, float) and abs(entry["area"]) <= MAX_COORDINATE**2):
        return f"has area {show(entry['area'])}, which is not a finite number"
    return None


def _fill_records(images: list[ImageRecord], columns: Columns) -> Counter[str]:
    """Give every image its boxes, clipped where its size is known, and count what that changes."""
    given = columns.bbox.copy()
    given[:, 2:] += given[:, :2]
    # An image of unknown size has no border to cut at.
    size = np.array([[image.width or np.nan, image.height or np.nan] for image in images])[columns.image]
    bounded = np.isfinite(size).all(axis=1)
    clipped = given.copy()
    clipped[bounded] = clip_boxes(given[bounded], size[bounded, 0], size[bounded, 1])[0]
    moved = (np.abs(clipped - given) > BOX_TOLERANCE).any(axis=1)
    # In float32, as in the records: a width that rounds to nothing is none.
    clipped = clipped.astype(np.float32)
    sized, inside = _has_area(given.astype(np.float32)), _has_area(clipped)
    counts = Counter()
    counts[NO_SIZE] = int(np.sum(~sized))
    counts[OUTSIDE] = int(np.sum(sized & ~inside))
    counts[CLIPPED] = int(np.sum(sized & inside & moved))
    counts[UNSIZED] = sum(not (image.width and image.height) for image in images)

    kept = np.flatnonzero(sized & inside)
    kept = kept[np.argsort(columns.image[kept], kind="stable")]
    boxes, labels, crowd = clipped[kept], columns.label[kept], columns.crowd[kept] == 1
    ends = np.cumsum(np.bincount(columns.image[kept], minlength=len(images)))
    for record, end, start in zip(images, ends, np.concatenate([[0], ends[:-1]]), strict=True):
        record.boxes, record.labels, record.crowd = boxes[start:end], labels[start:end], crowd[start:end]
    return +counts


def _has_area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] > boxes[:, :2]).all(axis=1)


def _named(name: str | None) -> str:
    return "absent" if name is None else show(name)
