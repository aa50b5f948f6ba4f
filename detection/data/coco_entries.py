"""The entries of COCO ground truth, read one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from detection.category_names import category_name
from detection.data.annotations import Columns, ImageRecord, columns_of
from detection.data.coco_json import bbox_of, id_of, is_id, read_entries
from detection.data.coco_values import (
    FROM_SEGMENTATION,
    as_list,
    check_mask,
    plain_annotation,
    plain_entry,
    plain_number,
)
from detection.data.entry_values import MAX_COORDINATE, Fault, show
from detection.data.faults import DataFault
from divdet.engine.errors import UserError

STRIPPED = "category names with surrounding white space, which is removed"
_FAR = MAX_COORDINATE
_NUMERIC = frozenset((int, float))

LEFT_OUT = "annotations left out with their image or category"


class EntryReader:
    """Reads the three lists of a ground-truth file, in the order of its methods.

    Attributes:
        faults: of entries, which are left out.
        counts: what was changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.faults: list[DataFault] = []
        self.counts: Counter[str] = Counter()
        # Ids of faulty entries, or of several: their annotations are left out, which is no further fault
        self._lost_images: set[int | str] = set()
        self._lost_categories: set[int | str] = set()
        # How many entries repeat an id, and unlisted ids of annotations: as many of these may mean those entries
        self._repeated: Counter[str] = Counter()
        self._unlisted: dict[str, set[int]] = {"image": set(), "category": set()}

    def categories(self, entries: Any) -> list[dict[str, Any]]:
        """Categories with integer ``id`` and their ``name``, by ascending id."""
        seen: set[int] = set()

        def read(entry: dict[str, Any]) -> dict[str, Any]:
            entry = plain_entry(entry, ("id",), self.counts)
            self._new_id(entry, seen, "category")
            if "name" not in entry:
                raise Fault("has no name")
            name = category_name(entry["name"])
            if name is None:
                what = "is empty or holds control characters" if isinstance(entry["name"], str) else "is not text"
                raise Fault(f"has name {show(entry['name'])}, which {what}; rename the category")
            self.counts[STRIPPED] += name != entry["name"]
            return entry | {"name": name}

        if isinstance(entries, list) and entries and all(isinstance(entry, str) for entry in entries):
            raise UserError(
                f"{self.path}: categories is a list of names: give each its id, as an object of id and name"
            )
        categories = self._read("categories", entries, read, self._lost_categories)
        if not entries:
            raise UserError(f"{self.path}: lists no categories: add those that the annotations use")
        # Of an id that occurs twice no entry is kept: nobody knows which one the annotations mean.
        kept = [category for category in categories if category["id"] not in self._lost_categories]
        return sorted(kept, key=lambda category: category["id"])

    def images(self, entries: Any, find: Callable[[Any], Path]) -> list[ImageRecord]:
        """Images, with the path that ``find`` gives for a ``file_name``."""
        seen: set[int] = set()

        def read(entry: dict[str, Any]) -> ImageRecord:
            entry = plain_entry(entry, ("id", "width", "height"), self.counts)
            number = self._new_id(entry, seen, "image")
            width, height = (_side(entry, key) for key in ("width", "height"))
            if "file_name" not in entry:
                raise Fault("has no file_name")
            path = entry["path"] if isinstance(entry.get("path"), Path) else find(entry["file_name"])
            return ImageRecord(number, entry["file_name"], path, width, height)

        images = self._read("images", entries, read, self._lost_images)
        if not entries:
            raise UserError(f"{self.path}: lists no images: an empty data set can neither be trained on nor evaluated")
        return [record for record in images if record.id not in self._lost_images]

    def annotations(self, entries: Any, records: list[ImageRecord], category_ids: list[int]) -> Columns:
        """Annotations of these images and categories."""
        images = {record.id: index for index, record in enumerate(records)}
        labels = {category_id: label for label, category_id in enumerate(category_ids)}
        seen: set[int] = set()

        def read(entry: dict[str, Any]) -> tuple[int, int, list[float], float, int] | None:
            plain, changed = _is_plain(entry), Counter()
            if not plain:
                entry = plain_annotation(entry, changed)
                if entry is None:
                    self.counts += changed
                    return None
            number = entry.get("id")
            if plain or is_id(number):
                if number in seen:
                    raise _repeated(number, "annotation")
                if number is not None:
                    seen.add(number)
            if not plain:
                lost = self._is_lost(entry)
                _check(entry, () if lost else ("image_id", "category_id"))
                if lost:
                    return None
                self.counts += changed  # not of faults
            image, label, bbox = images.get(entry["image_id"]), labels.get(entry["category_id"]), entry["bbox"]
            if image is None or label is None:
                kind = "category" if label is None and image is not None else "image"
                if not (self._is_lost(entry) or self._may_mean_repeated(entry, kind)):
                    raise _unlisted(entry, kind)
                return None
            if changed[FROM_SEGMENTATION]:
                check_mask(entry["segmentation"], records[image])
            return image, label, bbox, entry.get("area", bbox[2] * bbox[3]), entry.get("iscrowd", 0)

        return Columns(*columns_of(self._read("annotations", entries, read), area=np.float64, crowd=bool))

    def _is_lost(self, entry: dict[str, Any]) -> bool:
        """Whether the image or the category has a fault of its own; counts ``LEFT_OUT``."""
        pairs = (("image_id", self._lost_images), ("category_id", self._lost_categories))
        lost = any(isinstance(entry.get(key), int | str) and entry[key] in ids for key, ids in pairs)
        self.counts[LEFT_OUT] += lost
        return lost

    def _may_mean_repeated(self, entry: dict[str, Any], kind: str) -> bool:
        """Whether an unlisted id may mean an entry that repeats another's, a fault already; counts ``LEFT_OUT``."""
        number, known = entry[f"{kind}_id"], self._unlisted[kind]
        if number not in known and len(known) == self._repeated[kind]:
            return False
        known.add(number)
        self.counts[LEFT_OUT] += 1
        return True

    def _new_id(self, entry: dict[str, Any], seen: set[int], kind: str) -> int:
        """The entry's id, which must not be among those ``seen``."""
        number = id_of(entry, "id")
        if number in seen:
            self._repeated[kind] += 1
            raise _repeated(number, kind)
        seen.add(number)
        return number

    def _read(
        self, key: str, entries: Any, read: Callable[[dict[str, Any]], Any], lost: set | None = None
    ) -> list[Any]:
        def read_or_lose(entry: dict[str, Any]) -> Any:
            try:
                return read(entry)
            except Fault:
                number = plain_number(entry.get("id"))
                if type(number) in (int, str):
                    lost.add(number)
                raise

        entries = as_list(entries, self.counts)
        return read_entries(self.path, key, entries, read if lost is None else read_or_lose, self.faults)


def _is_plain(entry: dict[str, Any]) -> bool:
    """Whether an annotation is as COCO has it; most are, so this decides how long a file takes."""
    get = entry.get
    bbox, crowd, area = get("bbox"), get("iscrowd", 0), get("area", 0)
    if type(bbox) is not list or len(bbox) != 4:
        return False
    x, y, w, h = bbox
    return (
        (type(x) in _NUMERIC and type(y) in _NUMERIC and type(w) in _NUMERIC and type(h) in _NUMERIC)
        and (-_FAR <= x <= _FAR and -_FAR <= y <= _FAR and -_FAR <= w <= _FAR and -_FAR <= h <= _FAR)
        and (type(area) in _NUMERIC and -_FAR <= area <= _FAR)
        and (type(crowd) is int and 0 <= crowd <= 1)
        and (type(get("image_id")) is int and type(get("category_id")) is int and is_id(get("id", 0)))
    )


def _check(entry: dict[str, Any], ids: tuple[str, ...]) -> None:
    """Raise ``Fault`` unless the annotation, and these ids of it, have the form that ``annotations`` needs."""
    for key in (*ids, *(["id"] if "id" in entry else [])):
        id_of(entry, key)
    bbox_of(entry)
    crowd, area = entry.get("iscrowd", 0), entry.get("area", 0)
    if crowd not in (0, 1):
        raise Fault(f"has iscrowd {show(crowd)}, which is neither 0 nor 1")
    if not (type(area) in (int, float) and abs(area) <= MAX_COORDINATE**2):
        raise Fault(f"has area {show(area)}, which is not a finite number")


def _unlisted(entry: dict[str, Any], kind: str) -> Fault:
    lists = {"image": "images", "category": "categories"}
    unlisted = f"has {kind}_id {entry[f'{kind}_id']}, which {lists[kind]} does not list"
    return Fault(f"{unlisted}; add the {kind} or remove the annotation")


def _side(entry: dict[str, Any], key: str) -> int | None:
    """An image's width or height; None where the image itself must tell it."""
    value = entry.get(key)
    if value is None or isinstance(value, float) or (type(value) is int and value <= 0):
        return None
    if type(value) is not int or value > MAX_COORDINATE:
        raise Fault(f"has {key} {show(value)}, which is not a positive integer")
    return value


def _repeated(number: int, kind: str) -> Fault:
    return Fault(f"has id {number}, which an earlier {kind} has too; ids must be unique")
