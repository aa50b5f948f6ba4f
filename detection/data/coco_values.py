"""What real tools write in COCO ground truth, read as what it plainly means: numbers as text, boxes as polygons, …"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

from detection.data.annotations import ImageRecord
from detection.data.entry_values import Fault, is_number, show
from detection.data.run_lengths import box_around_runs, unpack_runs

NUMBERS = 'entries with numbers written as text ("3") or whole numbers as 3.0, read as numbers'
OBJECTS = "lists written as objects by id, read as lists"
NULLS = "annotations of null iscrowd or area, read as missing"
FROM_SEGMENTATION = "boxes computed from segmentations"
EMPTY = "annotations of empty bbox dropped"

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_EXACT = 2**53  # up to here a float holds every whole number


def as_list(value: Any, counts: Counter[str]) -> Any:
    """A list that was written as an object by id: of entries, of lists of annotations by image, or of names."""
    if not (isinstance(value, dict) and value):
        return value
    kinds = set(map(type, value.values()))
    if kinds == {dict}:
        entries = [{"id": plain_number(key)} | entry for key, entry in value.items()]
    elif kinds == {list}:
        if not all(isinstance(entry, dict) for entries in value.values() for entry in entries):
            return value
        entries = [{"image_id": plain_number(key)} | entry for key, entries in value.items() for entry in entries]
    elif kinds == {str}:
        entries = [{"id": plain_number(key), "name": name} for key, name in value.items()]
    elif kinds == {int}:
        entries = [{"id": number, "name": name} for name, number in value.items()]
    else:
        return value
    counts[OBJECTS] += 1
    return entries


def plain_number(value: Any) -> Any:
    """Text of a number as the number, and whole floats as integers; anything else as it is."""
    if isinstance(value, str) and len(value) < 50 and _NUMBER.fullmatch(value):
        value = float(value) if set(value) & set(".eE") else int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    return value


def plain_entry(entry: dict[str, Any], keys: tuple[str, ...], counts: Counter[str]) -> dict[str, Any]:
    """The entry, or a copy where some values under ``keys`` stand for plain numbers; counts ``NUMBERS``."""
    values = {key: plain_number(entry[key]) for key in keys if type(entry.get(key, 0)) in (str, float)}
    if not values:
        return entry
    counts[NUMBERS] += any(value is not entry[key] for key, value in values.items())
    return entry | values


def plain_annotation(entry: dict[str, Any], counts: Counter[str]) -> dict[str, Any] | None:
    """A copy of an annotation in COCO's own form; None for one without a box. ``counts`` are of this entry alone."""
    entry = dict(plain_entry(entry, ("id", "image_id", "category_id", "area", "iscrowd"), counts))
    nulls = [key for key in ("iscrowd", "area") if key in entry and entry[key] is None]
    counts[NULLS] += bool(nulls)
    for key in [*nulls, *(["id"] if isinstance(entry.get("id", 0), str | None) else [])]:
        del entry[key]
    bbox = entry.get("bbox")
    if type(bbox) is list and bbox:
        entry["bbox"] = list(map(plain_number, bbox))
        counts[NUMBERS] |= any(isinstance(value, str) for value in bbox)
    elif bbox in (None, []):
        box = box_around(entry.get("segmentation"))
        if box is None and bbox == []:
            counts[EMPTY] += 1
            return None
        if box is not None:
            counts[FROM_SEGMENTATION] += 1
            entry["bbox"] = box
    return entry


def box_around(segmentation: Any) -> list[float] | None:
    """The box [x, y, width, height] around polygons (of flat coordinates or of points) or a mask by run lengths."""
    if isinstance(segmentation, dict):
        return _box_around_mask(segmentation)
    values = list(_flat(segmentation, 3)) if isinstance(segmentation, list) else []
    values = [plain_number(value) for value in values]
    if len(values) < 4 or len(values) % 2 or not all(map(is_number, values)):
        if values:
            raise Fault(f"has no bbox, and segmentation {show(segmentation)}, which is no list of polygons")
        return None
    left, top = min(values[::2]), min(values[1::2])
    return [left, top, max(values[::2]) - left, max(values[1::2]) - top]


def _flat(values: list[Any], depth: int) -> Any:
    for value in values:
        if isinstance(value, list) and depth:
            yield from _flat(value, depth - 1)
        else:
            yield value


def check_mask(segmentation: Any, image: ImageRecord) -> None:
    """Refuses run lengths of another size than the image's, of which they are columns."""
    own = [image.height, image.width]
    if isinstance(segmentation, dict) and None not in own and list(map(plain_number, segmentation["size"])) != own:
        raise Fault(f"has a mask of size {show(segmentation['size'])} on an image of [height, width] {own}")


def _box_around_mask(mask: dict[str, Any]) -> list[float]:
    size, runs = mask.get("size"), mask.get("counts")
    size = list(map(plain_number, size)) if isinstance(size, list) else []
    try:
        runs = unpack_runs(runs) if isinstance(runs, str) else runs
    except ValueError:
        runs = None
    if (
        not (isinstance(runs, list) and all(type(run) is int and run >= 0 for run in runs))
        or not (len(size) == 2 and all(type(side) is int and side > 0 for side in size))
        or sum(runs) != math.prod(size)
    ):
        raise Fault(f"has no bbox, and segmentation {show(mask)}, which is no mask by run lengths")
    return box_around_runs(runs, size[0])
