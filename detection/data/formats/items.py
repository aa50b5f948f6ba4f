"""Annotated images as writers take them: upright, under names that are free, with one list of classes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from detection.data.annotations import CocoAnnotations, ImageRecord
from detection.data.image_index import index_images
from divdet.engine.errors import UserError
from divdet.engine.exif import read_turned

RENAMED = "images renamed, since another has the same name"
NUMBERED = "classes renamed by a number, since another has the same name"
TURNED = "images whose boxes are turned upright, as their EXIF orientation is shown"


@dataclass
class Item:
    """An image and its objects.

    Attributes:
        path: the image file.
        name: to write it under, relative to the folder of images, with ``/``.
        width, height: in pixels, upright.
        boxes: float64 [n, 4], x y w h in pixels, upright.
        labels: int64 [n], indices into the classes.
        crowd: bool [n].
        area: float64 [n].
    """

    path: Path
    name: str
    id: int
    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray


def items_of(
    splits: dict[str, CocoAnnotations], one_folder: bool, by_stem: bool
) -> tuple[dict[str, list[Item]], dict[int, str], Counter[str]]:
    """What to write of each split.

    Args:
        splits: annotations by the name of their split.
        one_folder: the images of all splits are written to one folder.
        by_stem: names must differ in more than their suffix, and those of classes in more than their id.

    Returns:
        Items by split; names of classes by category id, ascending; and counts of what was changed.
    """
    classes, maps = _one_class_list(list(splits.values()))
    counts: Counter[str] = Counter()
    if by_stem:  # COCO tells classes apart by id
        counts[NUMBERED] = _rename_repeated(classes)
    taken: set[str] = set()
    items: dict[str, list[Item]] = {}
    for (split, given), new_labels in zip(splits.items(), maps, strict=True):
        truth = given.truth
        ends = np.cumsum(np.bincount(truth.image, minlength=len(given.images)))
        rows = np.split(np.argsort(truth.image, kind="stable"), ends[:-1])
        taken = taken if one_folder else set()
        facts = index_images(image.path for image in given.images if not (image.width and image.height))
        items[split] = []
        for record, own in zip(given.images, rows, strict=True):
            if record.path in facts and facts[record.path].fault:
                raise UserError(f"{record.path}: {facts[record.path].fault}")
            wanted = _own_name(record)
            name = _free(wanted, taken, by_stem)
            counts[RENAMED] += name != wanted
            size = (record.width, record.height) if record.width and record.height else facts[record.path][:2]
            boxes, size, turned = _upright(record, truth.bbox[own], size, record.path in facts)
            counts[TURNED] += turned
            columns = new_labels[truth.label[own]], truth.crowd[own], truth.area[own]
            items[split].append(Item(record.path, name, record.id, *size, boxes, *columns))
    return items, classes, +counts


def _one_class_list(splits: Sequence[CocoAnnotations]) -> tuple[dict[int, str], list[np.ndarray]]:
    """Classes by id, matched by name over the splits; and what the labels of each split become.

    Categories of one split that share a name stay apart; over the splits these are matched by id first.
    """
    ids: dict[int, str] = {}
    by_name: dict[str, list[int]] = defaultdict(list)
    keys: list[list[int]] = []
    for given in splits:
        pairs = list(zip(given.category_ids, given.names, strict=True))
        equal = {number for number, name in pairs if number is not None and ids.get(number) == name}
        own: dict[int, None] = {}  # in the split's order
        for number, name in pairs:
            same = [key for key in by_name[name] if key not in equal and key not in own]
            if number in equal:
                key = number
            elif same:
                key = same[0]
            else:
                key = number if number is not None and number not in ids else max(ids, default=0) + 1
                ids[key] = name
                by_name[name].append(key)
            own[key] = None
        keys.append(list(own))
    places = {key: label for label, key in enumerate(sorted(ids))}
    return {key: ids[key] for key in places}, [np.array([places[key] for key in own], np.int64) for own in keys]


def _rename_repeated(classes: dict[int, str]) -> int:
    """Gives the second class of a name, and further ones, a number that makes it free; returns how many."""
    taken, renamed = set(classes.values()), 0
    seen: set[str] = set()
    for key, name in classes.items():
        if name in seen:
            number = 2
            while f"{name}_{number}" in taken:
                number += 1
            classes[key] = f"{name}_{number}"
            taken.add(classes[key])
            renamed += 1
        seen.add(name)
    return renamed


def _own_name(record: ImageRecord) -> str:
    """The part of the file's path that ``file_name`` also has: another tool's folders, say, are not kept."""
    named = PurePosixPath(record.file_name.replace("\\", "/")).parts
    path = record.path.absolute().parts
    common = 1
    while common < min(len(named), len(path)) and named[-common - 1 :] == path[-common - 1 :]:
        common += 1
    return "/".join(path[-common:])


def _free(name: str, taken: set[str], by_stem: bool) -> str:
    """The name, or one with a number that no earlier image has."""
    stem, dot, suffix = name.rpartition(".")
    free, number = name, 2
    while (key := (free.rpartition(".")[0] if by_stem else free).lower()) in taken:
        free, number = f"{stem}_{number}{dot}{suffix}", number + 1
    taken.add(key)
    return free


def _upright(
    record: ImageRecord, boxes: np.ndarray, size: Sequence[int], stored: bool
) -> tuple[np.ndarray, tuple[int, int], bool]:
    """Boxes and size of the upright image, and whether they were another layout's.

    ``stored``: ``size`` is that of the stored image, whatever layout the boxes are of.
    """
    turned = read_turned(record.path)
    width, height = size
    if turned is None:
        return boxes, (width, height), False
    code = turned[0]
    if record.upright:
        return boxes, ((height, width) if stored and code >= 5 else (width, height)), False
    x1, y1 = boxes[:, 0], boxes[:, 1]
    x2, y2 = x1 + boxes[:, 2], y1 + boxes[:, 3]
    if code in (2, 3, 7, 8):  # mirrored or turned in x as stored: see EXIF's table of orientations
        x1, x2 = width - x2, width - x1
    if code in (3, 4, 6, 7):
        y1, y2 = height - y2, height - y1
    corners = [y1, x1, y2, x2] if code >= 5 else [x1, y1, x2, y2]
    start, end = np.stack(corners[:2], axis=1), np.stack(corners[2:], axis=1)
    size = (height, width) if code >= 5 else (width, height)
    return np.round(np.concatenate([start, end - start], axis=1), 9), size, True
