"""COCO ground truth: read, checked, and turned into training records and evaluation data.

Inconsistent entries raise a ``UserError`` that names them. Boxes that merely cannot be trained on (of zero or negative
size, outside their image) are left out of the records and counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.category_names import category_name
from detection.data.annotations import CocoAnnotations, Columns, ImageRecord, columns_of, fill_records
from detection.data.coco_json import MAX_COORDINATE, Fault, bbox_of, id_of, is_text, read_entries, read_json, show
from detection.data.faults import DataError, DataFault
from detection.data.orientation import set_layouts
from detection.settings import Orientation
from divdet.engine.errors import UserError

STRIPPED = "category names with surrounding white space, which is removed"


def load_annotations(
    annotations_path: str | Path,
    images_dir: str | Path | None,
    orientation: Orientation = "auto",
    *,
    faults: list[DataFault] | None = None,
) -> CocoAnnotations:
    """Read and check a COCO ground-truth file: see ``ground_truth_from``.

    Raises:
        UserError: also for a file that is not COCO ground truth.
    """
    path = Path(annotations_path)
    return ground_truth_from(read_json(path), path, images_dir, orientation, faults=faults)


def ground_truth_from(
    data: Any,
    path: Path,
    images_dir: str | Path | None,
    orientation: Orientation = "auto",
    *,
    faults: list[DataFault] | None = None,
) -> CocoAnnotations:
    """Check ground truth in COCO's form, and turn it into records.

    Args:
        data: ``images``, ``annotations`` and ``categories``, as COCO's JSON holds them. Missing ``iscrowd`` means 0 and
            missing ``area`` width x height. Boxes of images without ``width`` and ``height`` are not clipped here (use
            ``clip_boxes`` after decoding). An entry may hold a ``place``, such as ``line 3``, and the ``file`` that
            place is in, which messages use instead of its index.
        path: where the data came from, for messages.
        images_dir: folder of the images, which must exist; None: no image is looked for, to score a results file.
        orientation: how images with an EXIF rotation are read, see ``set_layouts``.
        faults: receives the faults of entries, which are left out. Without it they are raised.

    Raises:
        DataError: for inconsistent or malformed entries, a ``file_name`` that leaves ``images_dir`` (by its text or
            through a link), and missing images: all of them at once.
        UserError: for what is not ground truth, or holds no image or no category.
    """
    lists = ("images", "annotations", "categories")
    absent = [key for key in lists if key not in data] if isinstance(data, dict) else lists
    if absent:
        raise UserError(f"{path}: not COCO ground truth: it has no {', '.join(absent)}")
    found: list[DataFault] = []
    names, stripped = _read_categories(path, data["categories"], found)
    images = _read_images(path, data["images"], images_dir, found)
    columns = _read_annotations(path, data["annotations"], images, list(names), found)
    if faults is not None:
        faults += found
    elif found:
        raise DataError(found)
    turned = Counter() if images_dir is None else set_layouts(images, columns, orientation)
    counts = fill_records(images, columns) + Counter({STRIPPED: stripped}) + turned
    return CocoAnnotations(path, images, list(names), list(names.values()), counts, columns)


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


def _read_categories(path: Path, entries: Any, faults: list[DataFault]) -> tuple[dict[int, str], int]:
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

    names = read_entries(path, "categories", entries, read, faults)
    if not names:
        raise UserError(f"{path}: lists no categories: add those that the annotations use")
    stripped = sum(
        isinstance(entry, dict) and category_name(entry.get("name")) != entry.get("name") for entry in entries
    )
    return dict(sorted(names)), stripped


def _read_images(path: Path, entries: Any, images_dir: str | Path | None, faults: list[DataFault]) -> list[ImageRecord]:
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

    records = read_entries(path, "images", entries, read, faults)
    if not records:
        raise UserError(f"{path}: lists no images: an empty data set can neither be trained on nor evaluated")
    missing = [record for record in records if folder and not os.path.isfile(record.path)]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of its {len(records)} images are not in {images_dir}, the first is "
            f"{show(missing[0].file_name)}; correct the image folder or remove the images from the file"
        )
    return records


def _read_annotations(
    path: Path, entries: Any, images: list[ImageRecord], category_ids: list[int], faults: list[DataFault]
) -> Columns:
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

    return Columns(*columns_of(read_entries(path, "annotations", entries, read, faults), area=np.float64, crowd=bool))


def _own_id(entry: dict[str, Any], seen: set[int], kind: str) -> int:
    """The entry's id, unlike those that are ``seen``."""
    number = id_of(entry, "id")
    if number in seen:
        raise Fault(f"has id {number}, which an earlier {kind} has too; ids must be unique")
    seen.add(number)
    return number
