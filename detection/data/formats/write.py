"""Writes a data set as COCO, YOLO or VOC, in the layout that each format's users expect."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import escape

import numpy as np
import yaml

from detection.data.annotations import BOX_TOLERANCE, CocoAnnotations
from detection.data.formats.items import Item, items_of
from detection.data.formats.new_folder import into_new_folder
from detection.data.formats.yolo_pixels import fractions
from divdet.engine.files import write_json
from divdet.engine.progress import progress

Target = Literal["coco", "yolo", "voc"]
CROWDS = "crowds dropped, which YOLO cannot say"
DROPPED = "boxes without a part inside their image dropped, which YOLO cannot say"
FLAT = "boxes of zero or negative size dropped, which VOC cannot say"
CLIPPED = "boxes cut at the border of their image, since YOLO's fractions end there"

_Splits = dict[str, list[Item]]


def write_data_set(
    splits: dict[str, CocoAnnotations], target: Target, folder: str | Path, link: bool = False
) -> tuple[_Splits, Counter[str]]:
    """Writes annotations and images to a new folder.

    Args:
        splits: annotations by the name of their split.
        target: coco (``annotations/instances_SPLIT.json``, ``images/``), yolo (``data.yaml``, ``images/SPLIT/``,
            ``labels/SPLIT/``) or voc (``Annotations/``, ``JPEGImages/``, ``ImageSets/Main/SPLIT.txt``, and
            ``classes.txt``, which keeps the order of the classes).
        folder: appears when everything is written; must not exist, or be empty.
        link: hard-link the images instead of copying them, where the file system can.

    Returns:
        What was written, by split, and counts of what the format cannot say or what was changed.

    Raises:
        UserError: where the folder holds something or cannot be written.
    """
    items, classes, counts = items_of(splits, one_folder=target != "yolo", by_stem=target != "coco")
    write = {"coco": _write_coco, "yolo": _write_yolo, "voc": _write_voc}[target]
    into_new_folder(Path(folder), lambda new: write(new, items, classes, counts, link))
    return items, +counts


def coco_truth(annotations: CocoAnnotations) -> dict[str, Any]:
    """One split as COCO ground truth; file names are those that were read."""
    items, classes, _ = items_of({"": annotations}, one_folder=True, by_stem=False)
    for item, record in zip(items[""], annotations.images, strict=True):
        item.name = record.file_name
    return _coco(items[""], classes, 1)


def _write_coco(folder: Path, splits: _Splits, classes: dict[int, str], counts: Counter[str], link: bool) -> None:
    ids = [item.id for items in splits.values() for item in items]
    if len(set(ids)) < len(ids):  # ids of one split are another's, too
        for number, item in enumerate((item for items in splits.values() for item in items), 1):
            item.id = number
    (folder / "annotations").mkdir()
    (folder / "images").mkdir()
    number = 1
    for split, items in splits.items():
        truth = _coco(items, classes, number)
        number += len(truth["annotations"])
        write_json(truth, folder / "annotations" / f"instances_{split}.json", indent=None)
        for item in progress(items, f"writing {split}", unit="image"):
            _place(item, folder / "images", link)


def _coco(items: list[Item], classes: dict[int, str], number: int) -> dict[str, Any]:
    """COCO ground truth; ``number`` is the first annotation's id."""
    images, annotations, categories = [], [], list(classes)
    for item in items:
        images.append({"id": item.id, "file_name": item.name, "width": item.width, "height": item.height})
        columns = (values.tolist() for values in (item.boxes, item.labels, item.crowd, item.area))
        for box, label, crowd, area in zip(*columns, strict=True):
            entry = {"id": number, "image_id": item.id, "category_id": categories[label]}
            bbox = [_whole(value) for value in box]
            annotations.append(entry | {"bbox": bbox, "area": _whole(area), "iscrowd": int(crowd)})
            number += 1
    listed = [{"id": key, "name": name} for key, name in classes.items()]
    return {"images": images, "annotations": annotations, "categories": listed}


def _write_yolo(folder: Path, splits: _Splits, classes: dict[int, str], counts: Counter[str], link: bool) -> None:
    for split, items in splits.items():
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for item in progress(items, f"writing {split}", unit="image"):
            boxes, kept = _inside(item, counts)
            rows = zip(item.labels[kept].tolist(), boxes[kept].tolist(), strict=True)
            lines = [f"{label} {fractions(box, item.width, item.height)}\n" for label, box in rows]
            _write(labels / f"{item.name.rpartition('.')[0]}.txt", "".join(lines))
            _place(item, images, link)
    # Without path, which ultralytics takes relative to a folder of its own settings.
    description: dict[str, Any] = {split: f"images/{split}" for split in splits}
    description |= {"nc": len(classes), "names": dict(enumerate(classes.values()))}
    _write(folder / "data.yaml", yaml.safe_dump(description, sort_keys=False, allow_unicode=True))


def _inside(item: Item, counts: Counter[str]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes as YOLO can say them, and which ones: bool [n]. What rounding put past the border stays as it is."""
    start, end = item.boxes[:, :2], item.boxes[:, :2] + item.boxes[:, 2:]
    size = np.array([item.width, item.height])
    out = ((start < -BOX_TOLERANCE) | (end > size + BOX_TOLERANCE)).any(axis=1)
    clipped = np.concatenate([np.clip(start, 0, size), np.clip(end, 0, size) - np.clip(start, 0, size)], axis=1)
    sized = (clipped[:, 2:] > 0).all(axis=1)
    counts[CROWDS] += int(item.crowd.sum())
    counts[DROPPED] += int((~sized & ~item.crowd).sum())
    counts[CLIPPED] += int((out & sized & ~item.crowd).sum())
    return np.where(out[:, None], clipped, item.boxes), sized & ~item.crowd


def _write_voc(folder: Path, splits: _Splits, classes: dict[int, str], counts: Counter[str], link: bool) -> None:
    names = list(classes.values())
    lists = folder / "ImageSets" / "Main"
    for path in (folder / "Annotations", folder / "JPEGImages", lists):
        path.mkdir(parents=True)
    _write(folder / "classes.txt", "".join(f"{name}\n" for name in names))
    # As Pascal VOC where all boxes can be said so, else from 0 with a decimal point everywhere: ``told_origin`` reads
    # both back exactly.
    every = [item.boxes[_sized(item)] for items in splits.values() for item in items]
    origin = all(bool((boxes == np.round(boxes)).all() and (boxes[:, :2] >= 0).all()) for boxes in every)
    for split, items in splits.items():
        for item in progress(items, f"writing {split}", unit="image"):
            stem = item.name.rpartition(".")[0]
            counts[FLAT] += int((~_sized(item)).sum())
            _write(folder / "Annotations" / f"{stem}.xml", _voc_xml(item, names, int(origin)))
            _place(item, folder / "JPEGImages", link)
        _write(lists / f"{split}.txt", "".join(f"{item.name.rpartition('.')[0]}\n" for item in items))


def _sized(item: Item) -> np.ndarray:
    """Which boxes have an area: bool [n]."""
    return (item.boxes[:, 2:] > 0).all(axis=1)


def _voc_xml(item: Item, names: list[str], origin: int) -> str:
    objects = []
    columns = (values[_sized(item)].tolist() for values in (item.boxes, item.labels, item.crowd))
    for box, label, crowd in zip(*columns, strict=True):
        x, y, w, h = (Decimal(repr(value)) for value in box)
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (x + origin, y + origin, x + w, y + h), strict=True)
        bndbox = "".join(
            f"<{key}>{value.normalize():f}{'' if origin or value % 1 else '.0'}</{key}>" for key, value in corners
        )
        objects.append(
            f"  <object>\n    <name>{escape(names[label])}</name>\n    <pose>Unspecified</pose>\n"
            f"    <truncated>0</truncated>\n    <difficult>{int(crowd)}</difficult>\n"
            f"    <bndbox>{bndbox}</bndbox>\n  </object>\n"
        )
    return (
        f"<annotation>\n  <folder>JPEGImages</folder>\n  <filename>{escape(item.name)}</filename>\n"
        f"  <size><width>{item.width}</width><height>{item.height}</height><depth>3</depth></size>\n"
        f"  <segmented>0</segmented>\n{''.join(objects)}</annotation>\n"
    )


def _whole(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def _write(path: Path, text: str) -> None:
    """Without a sync for each file: the folder appears when all are written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _place(item: Item, folder: Path, link: bool) -> None:
    """Copies or links an image."""
    path = folder / item.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if link:
        with suppress(OSError):  # another file system, or one without links
            os.link(item.path.resolve(), path)
            return
    shutil.copyfile(item.path, path)
