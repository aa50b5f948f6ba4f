"""YOLO: a label file for each image, with a line ``class cx cy w h`` for each object, in fractions of the image.

What ultralytics accepts is accepted: outlines (``class x1 y1 x2 y2 …``, also the four points of oriented boxes) and
poses become boxes, an empty or missing file is an image without objects, and a repeated line counts once.

Fractions become pixels by the size of the image as it is shown, with its EXIF orientation: that is how annotation tools
and ultralytics show it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detection.data.entry_values import show
from detection.data.faults import DataError, DataFault
from detection.data.formats.class_names import class_list, names_beside
from detection.data.formats.content import Content
from detection.data.formats.folders import (
    Source,
    images_in,
    label_files,
    named_images,
    parallel,
    relative_name,
    yolo_folders,
)
from detection.data.formats.text_files import is_description, read_description
from detection.data.formats.yolo_lines import LabelReader, LabelRow
from detection.data.formats.yolo_lists import listed_images
from detection.data.formats.yolo_pixels import to_pixels
from detection.data.formats.yolo_yaml import PLACES, locate, locate_by_end, splits_in
from detection.data.image_index import index_images
from detection.data.path_forms import NameIndex
from detection.settings import Orientation
from divdet.engine.errors import UserError

NUMBERED = "classes named by their numbers, since no data.yaml or classes.txt lists names"
UNLABELED = "images without a label file, taken as images without objects"
SHARED = "images whose label file is that of another of the same name, such as a.png of a.jpg"
NO_IMAGE = "label files without an image, which are left out"


class _Split(NamedTuple):
    """Where a split is: image files, each with its label file; and how labels are read."""

    pairs: dict[Path, Path]
    names: dict[int, str] | None
    pose: int  # columns of key points
    counts: Counter[str]


class _Row(NamedTuple):
    """An object in an image of a size."""

    image: int
    width: int
    height: int
    file: Path
    found: LabelRow


def read_yolo(source: Source, others: Iterable[Source], orientation: Orientation, faults: list[DataFault]) -> Content:
    """Reads a split; faulty lines and images that cannot be decoded are added to ``faults`` and left out.

    ``others`` are further splits of the same data; without a list of names all count for the number of classes.

    Raises:
        DataError: where all lines alike have another form than YOLO's.
        UserError: where there are no images or labels, or no usable data.yaml.
    """
    split = _find(source, faults)
    folder, names = named_images(list(split.pairs))
    facts = index_images(names)
    reader = LabelReader(split.names, split.pose, split.counts)
    images: list[dict[str, Any]] = []
    rows: list[_Row] = []
    for number, path in enumerate(names):
        if facts[path].fault:
            faults.append(DataFault(str(path), "", facts[path].fault))
            continue
        width, height = facts[path][:2] if orientation == "stored" else facts[path].upright
        images.append({"id": number, "file_name": names[path], "width": width, "height": height})
        if split.pairs[path].is_file():
            found = reader.read(split.pairs[path], (width, height))
            rows += [_Row(number, width, height, split.pairs[path], row) for row in found]
    wrong, single = reader.faults()
    if wrong:
        raise DataError([*(DataFault(str(source.path), source.split or "", what) for what in wrong), *faults, *single])
    faults += single
    names_of = split.names
    if names_of is None:
        last = max(
            [0, *(row.found.label for row in rows), *(_last_class(other) for other in others if other != source)]
        )
        names_of = {number: str(number) for number in range(last + 1)}
        split.counts[NUMBERED] = len(names_of)
    categories = [{"id": number + 1, "name": name} for number, name in names_of.items()]
    data = {"images": images, "annotations": _annotations(rows), "categories": categories}
    return Content(data, folder, +split.counts)


def image_files(source: Source) -> list[Path]:
    """The images of a split, under the paths that their labels are found by."""
    return list(_find(source, []).pairs)


def lists_suffice(source: Source) -> bool:
    """Whether a list of the images leads to the same label files, as layouts of YOLO's own do."""
    pairs = _find(source, []).pairs.items()
    return all(not label.is_file() or _label_of(image).absolute() == label.absolute() for image, label in pairs)


def place_of(source: Source) -> Path | None:
    """The folder or list of images of a split of data.yaml, where it is one."""
    data = read_description(source.path)
    entries = splits_in(data, source.path)[source.split]
    if len(entries) > 1:
        return None
    return locate(source.path, data, entries[0]) or locate_by_end(source.path, entries[0])


def description_of(source: Source) -> dict[str, Any] | None:
    """What data.yaml says beside the places of the splits, or ``names`` of another list; None without either."""
    path = source.path
    if not is_description(path):
        beside = class_list(path.parent if path.is_file() else yolo_folders(path)[0], yolo=True)
        if beside is None or not is_description(beside[1]):
            return beside and {"names": beside[0] if isinstance(beside[0], dict) else dict(enumerate(beside[0]))}
        path = beside[1]
    data = read_description(path)
    if not isinstance(data.get("names"), list | dict):
        data["names"] = names_beside(data, path)
    return {key: value for key, value in data.items() if key not in (*PLACES, "path")}


def _find(source: Source, faults: list[DataFault]) -> _Split:
    path, counts = source.path, Counter()
    if source.images and not path.is_dir():
        raise UserError(
            f"{path}: names its images itself: leave out data.train_images and data.val_images (or --images)"
        )
    if is_description(path):
        data = read_description(path)
        entries = splits_in(data, path)
        if source.split not in entries:
            raise UserError(f"{path}: has no {source.split}: it names {', '.join(entries) or 'no split'}")
        found = _entries(path, data, entries[source.split], faults, counts)
        names, pose = names_beside(data, path), _pose(data)
    elif path.is_file():
        found = _with_labels(listed_images(path, [path.parent], faults, counts))
        names, pose = _classes(path.parent)
    else:
        labels, folder = yolo_folders(path)
        if source.images:
            labels, folder = path / "labels" if (path / "labels").is_dir() else path, source.images
        found = {image: _label_of(image, folder, labels) for image in images_in(folder)}
        counts += _pair_other_names(found, folder, labels)
        counts += _unused(found, labels)
        names, pose = _classes(labels)
    if not found and faults:
        raise DataError(faults)
    if not found:
        raise UserError(f"{source}: no images found" + (f" in {source.images or folder}" if path.is_dir() else ""))
    missing = [label for label in found.values() if not label.is_file()]
    if len(missing) == len(found):
        raise UserError(f"{source}: none of its {len(found)} images has a label file; the first would be {missing[0]}")
    counts[UNLABELED] = len(missing)
    counts[SHARED] = len(found) - len(missing) - len(set(found.values()) - set(missing))
    return _Split(found, names, pose, counts)


def _classes(folder: Path) -> tuple[dict[int, str] | None, int]:
    """Names by class number, if any, and columns of key points, by the files in or around a folder."""
    if (beside := class_list(folder, yolo=True)) is None:
        return None, 0
    names, file = beside
    return names, _pose(read_description(file)) if is_description(file) else 0


def _pose(data: dict[str, Any]) -> int:
    """Columns of key points, by a data.yaml."""
    shape = data.get("kpt_shape")
    usable = isinstance(shape, list) and all(type(number) is int and 0 < number < 10**4 for number in shape)
    return math.prod(shape) if usable and shape else 0


def _last_class(source: Source) -> int:
    """The highest class number of another split; 0 where it cannot be read, which reading it will say."""
    if source.format != "yolo":
        return 0
    try:
        split = _find(source, [])
    except UserError:
        return 0
    reader = LabelReader(split.names, split.pose, Counter())
    files = [file for file in split.pairs.values() if file.is_file()]
    return max((row.label for file in files for row in reader.read(file, (1, 1))), default=0)


def _entries(
    file: Path, data: dict[str, Any], entries: list[str], faults: list[DataFault], counts: Counter[str]
) -> dict[Path, Path]:
    """The image and label files of a split of data.yaml."""
    found: dict[Path, Path] = {}
    root = data.get("path")
    for entry in entries:
        place = locate(file, data, entry)
        if place is None and (place := locate_by_end(file, entry)):
            counts[f"places that are not there, found by their end, such as {show(entry)} as {place}"] += 1
        if place is None:
            raise UserError(f"{file}: names {show(entry)}, which is not there: correct it, or path, in the file")
        if place.is_dir():
            folder, images = place, images_in(place)
            if not images and (other := parallel(place, "labels", "images")):
                folder, images = other, images_in(other)
            part, labels = _with_labels(images), parallel(folder, "images", "labels") or folder
            counts += _pair_other_names(part, folder, labels)
            counts += _unused(part, labels)
            found |= part
        else:
            roots = [place.parent, file.parent, *([file.parent / root] if isinstance(root, str) else [])]
            found |= _with_labels(listed_images(place, roots, faults, counts))
    return found


def _with_labels(images: Iterable[Path]) -> dict[Path, Path]:
    return {image: _label_of(image) for image in images}


def _label_of(image: Path, images: Path | None = None, labels: Path | None = None) -> Path:
    """The label file of an image: in the parallel folder if it is there, else beside the image."""
    beside = _text_beside(image)
    if labels is not None and labels != images:
        inner = _text_beside(labels / relative_name(image, images))
    elif folder := parallel(image.parent, "images", "labels"):
        inner = _text_beside(folder / image.name)
    else:
        return beside
    return inner if inner.is_file() or not beside.is_file() else beside


def _pair_other_names(found: dict[Path, Path], folder: Path, labels: Path) -> Counter[str]:
    """Gives images without a label file the one whose name differs by an export tool's prefix; see ``NameIndex``."""
    alone = [image for image, label in found.items() if not label.is_file()]
    used = {label.absolute() for label in found.values()}
    left = [label for label in label_files(labels) if label.absolute() not in used] if alone else []
    index = NameIndex([str(Path(relative_name(image, folder)).with_suffix("")) for image in alone])
    pairs: dict[Path, list[Path]] = {}
    for label in left:
        fits = index.fits(str(Path(relative_name(label, labels)).with_suffix("")), base_alone=False)
        if len(fits) == 1:
            pairs.setdefault(alone[fits[0]], []).append(label)
    sure = {image: fitting[0] for image, fitting in pairs.items() if len(fitting) == 1}
    found.update(sure)
    if not sure:
        return Counter()
    image, label = next(iter(sure.items()))
    return Counter({f"label files named otherwise than their image, such as {label.name} of {image.name}": len(sure)})


def _text_beside(image: Path) -> Path:
    texts = [image.with_suffix(suffix) for suffix in (".txt", ".TXT")]
    return texts[1] if not texts[0].is_file() and texts[1].is_file() else texts[0]


def _unused(found: dict[Path, Path], labels: Path) -> Counter[str]:
    used = {label.absolute() for label in found.values()}
    return Counter({NO_IMAGE: sum(file.absolute() not in used for file in label_files(labels))})


def _annotations(rows: list[_Row]) -> list[dict[str, Any]]:
    """COCO's annotations."""
    if not rows:
        return []
    size = np.array([row[1:3] for row in rows], np.float64)
    values = np.array([row.found.values for row in rows], np.float64)
    corners = np.array([row.found.corners for row in rows])
    boxes = to_pixels(values, size, corners, max(row.found.decimals for row in rows))
    return [
        {
            "image_id": row.image,
            "category_id": row.found.label + 1,
            "bbox": box,
            "file": str(row.file),
            "place": f"line {row.found.line}",
        }
        for row, box in zip(rows, boxes.tolist(), strict=True)
    ]
