"""COCO ground truth: read, checked, and turned into training records and evaluation data.

Inconsistent entries raise a ``UserError`` that names them. Boxes that merely cannot be trained on (of zero or negative
size, outside their image) are left out of the records and counted.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from detection.data.annotations import CocoAnnotations, Columns, ImageRecord, fill_records
from detection.data.box_forms import odd_scale, wrong_form
from detection.data.category_match import drop_unused
from detection.data.coco_entries import EntryReader
from detection.data.coco_json import gc_paused, read_json
from detection.data.doubtful import doubtful
from detection.data.entry_values import show
from detection.data.faults import DataError, DataFault
from detection.data.image_files import ImageFiles
from detection.data.json_formats import other_format
from detection.data.orientation import set_layouts
from detection.data.repeated_files import count_repeated
from detection.settings import Orientation
from divdet.engine.errors import UserError

_LISTS = ("images", "annotations", "categories")
_FOLDER = "set the folder that the file names are relative to"


@gc_paused()
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
            through a link), missing images, and boxes that look like fractions or corners: all of them at once. With
            ``faults`` only for what spoils the file as a whole.
        UserError: for what is not ground truth, or holds no image or no category.
    """
    absent = [key for key in _LISTS if key not in data] if isinstance(data, dict) else _LISTS
    if absent:
        without = '; if there are none, as in a test set, add "annotations": []' * (absent == ["annotations"])
        raise UserError(f"{path}: not COCO ground truth: it has no {', '.join(absent)}{other_format(data)}{without}")
    if not any(data[key] for key in _LISTS):
        raise UserError(f"{path}: an empty data set: it lists no images, annotations or categories")
    reader, files = EntryReader(path), ImageFiles(images_dir, path)
    categories = reader.categories(data["categories"])
    images = reader.images(data["images"], files.find)
    truth = reader.annotations(data["annotations"], images, [entry["id"] for entry in categories])
    turned = Counter() if images_dir is None else set_layouts(images, truth, orientation)
    if found := _fatal(reader, files, images, truth) or (reader.faults if faults is None else []):
        raise DataError(found)
    if faults is not None:
        faults += reader.faults
    categories, dropped = drop_unused(categories, truth)
    counts = reader.counts + dropped + files.counts() + count_repeated(images) + turned + odd_scale(images, truth)
    counts += fill_records(images, truth) + doubtful(truth)
    ids, names = ([category[key] for category in categories] for key in ("id", "name"))
    return CocoAnnotations(path, images, ids, names, counts, truth)


def _fatal(reader: EntryReader, files: ImageFiles, images: list[ImageRecord], truth: Columns) -> list[DataFault]:
    """The faults that spoil a file as a whole, or all faults if they leave no image."""
    if not images and len(files.missing) == len(reader.faults):
        first, held = f"the first is {show(files.missing[0])}", files.describe()
        what = f"lists {len(files.missing)} images, none of which is in {files.images_dir}; {first}; {held}; {_FOLDER}"
        return [DataFault(str(reader.path), "", what)]
    if not images:
        return reader.faults
    form = wrong_form(images, truth)
    return [DataFault(str(reader.path), "", form), *reader.faults] if form else []
