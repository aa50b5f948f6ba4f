"""Detections of many images, and COCO's format of them: ``[{image_id, category_id, bbox: [x, y, w, h], score}, …]``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from detection.category_names import category_name
from detection.data.coco import CocoAnnotations
from detection.data.coco_json import (
    MAX_COORDINATE,
    bbox_problem,
    check_objects,
    entry_error,
    id_problem,
    is_number,
    read_json,
    show,
)
from detection.data.file_names import FileNames, number_in_name
from divdet.engine.files import write_atomically

_PIECE = 10_000  # entries that are text at a time


@dataclass
class Results:
    """n detections as columns: 56 bytes each, a tenth of what a parsed file takes.

    image: int64 [n], positions in the annotations' list of images. label: int64 [n], 0-based.
    bbox: float64 [n, 4], x y width height in pixels. score: float64 [n].
    """

    image: np.ndarray
    label: np.ndarray
    bbox: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.score)


def load_results(results_path: str | Path, annotations: CocoAnnotations) -> Results:
    """Read a COCO results file of any detector for scoring against ``annotations``, keeping the four keys above.

    An entry's image is the one of its ``file_name``, where it has one (see ``FileNames``), else that of its
    ``image_id``. Beside a file name ``image_id`` may be text or the number in that name, as detect.py writes it without
    annotations. Any other number must be the image's id.

    Raises UserError for a file that is not a COCO results file and for malformed entries, entries of images or
    categories that ``annotations`` does not list, and entries that contradict themselves. An empty list is a
    legitimate result.
    """
    path = Path(results_path)
    entries = check_objects(path, read_json(path), "the results file")
    images, categories = _Images(annotations), _Categories(annotations)
    results = _columns(entries, images, categories)
    if results is None:
        for index, entry in enumerate(entries):
            problem = _problem(entry, images, categories)
            if problem:
                raise entry_error(path, "detections", index, entry, problem)
        raise AssertionError(f"{path}: no entry of it is at fault")
    if images.names.by_base:
        print(f"{path}: {images.names.describe_by_base()}")
    if images.renumbered:
        print(f"{path}: images are matched by file_name; their image_id differs from {annotations.path}")
    return results


def save_results(results: Results, annotations: CocoAnnotations, path: Path) -> None:
    """Write a COCO results file, atomically; the text of a part of it at most is in memory."""
    image_ids = [image.id for image in annotations.images]
    category_ids = annotations.category_ids

    def write(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write("[")
            for start in range(0, len(results), _PIECE):
                part = slice(start, start + _PIECE)
                columns = (results.image[part], results.label[part], results.bbox[part], results.score[part])
                entries = [
                    {"image_id": image_ids[image], "category_id": category_ids[label], "bbox": bbox, "score": score}
                    for image, label, bbox, score in zip(*(column.tolist() for column in columns), strict=True)
                ]
                file.write((", " if start else "") + json.dumps(entries, allow_nan=False)[1:-1])
            file.write("]")

    write_atomically(path, write)


class _Images:
    """Positions of images by results entry, or what is wrong with the entry."""

    def __init__(self, annotations: CocoAnnotations) -> None:
        self._annotations, self.names = annotations, FileNames(annotations)
        self._positions = {image.id: position for position, image in enumerate(annotations.images)}
        self._named: dict[tuple[str, int | str | None], int | str] = {}
        self.renumbered = False  # whether an image_id differs from the annotations'

    def find(self, entry: dict[str, Any]) -> int | str:
        name, image_id = entry.get("file_name"), entry.get("image_id")
        if name is None:
            if type(image_id) is int and image_id in self._positions:
                return self._positions[image_id]
            unknown = (
                f"has image_id {image_id}, which {self._annotations.path} does not list; score against its own images"
            )
            return id_problem(entry, "image_id") or unknown
        if not isinstance(name, str):
            return f"has file_name {show(name)}, which is not text"
        if type(image_id) not in (int, str, type(None)):
            return f"has image_id {show(image_id)}, which is not an integer"
        if (name, image_id) not in self._named:
            self._named[name, image_id] = self._by_name(name, image_id)
        return self._named[name, image_id]

    def _by_name(self, name: str, image_id: int | str | None) -> int | str:
        number = number_in_name(image_id) if isinstance(image_id, str) else image_id
        position = self.names.find(name, number)
        if isinstance(position, str):
            return position
        own = self._annotations.images[position].id
        if number not in (own, number_in_name(name), None):
            return (
                f"has image_id {show(image_id)} and file_name {show(name)}, which contradict each other: "
                f"that file is image {own} of {self._annotations.path}"
            )
        self.renumbered |= image_id not in (own, None)
        return position


class _Categories:
    """Labels by results entry, or what is wrong with the entry."""

    def __init__(self, annotations: CocoAnnotations) -> None:
        self._truth, self._names = annotations.path, annotations.names
        self._labels = {category_id: label for label, category_id in enumerate(annotations.category_ids)}

    def find(self, entry: dict[str, Any]) -> int | str:
        category_id = entry.get("category_id")
        label = self._labels.get(category_id) if type(category_id) is int else None
        if label is None:
            unknown = f"has category_id {category_id}, which {self._truth} does not list; use its category ids"
            return id_problem(entry, "category_id") or unknown
        name = entry.get("category")  # detect.py writes it, too
        if name is not None and name != self._names[label] and category_name(name) in self._names:
            return f"has category_id {category_id} and category {show(name)}, which has another id in {self._truth}"
        return label


def _columns(entries: list[dict[str, Any]], images: _Images, categories: _Categories) -> Results | None:
    """All entries at once; None where ``_problem`` finds one in any of them."""
    found = [images.find(entry) for entry in entries]
    labels = [categories.find(entry) for entry in entries]
    try:
        boxes, scores = ([entry[key] for entry in entries] for key in ("bbox", "score"))
        if {type(value) for value in chain(found, labels)} - {int} or {type(box) for box in boxes} - {list}:
            return None
        if {len(box) for box in boxes} - {4} or {type(value) for value in chain(scores, chain.from_iterable(boxes))} - {
            int,
            float,
        }:
            return None
        bbox = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes)).reshape(-1, 4)
        score = np.array(scores, np.float64)
    except (KeyError, OverflowError):  # a key is absent, or an integer has hundreds of digits
        return None
    finite = (np.abs(bbox) <= MAX_COORDINATE).all() and (np.abs(score) <= MAX_COORDINATE).all()
    if not finite or (bbox[:, 2:] < 0).any():
        return None
    return Results(np.array(found, np.int64), np.array(labels, np.int64), bbox, score)


def _problem(entry: dict[str, Any], images: _Images, categories: _Categories) -> str | None:
    for found in (images.find(entry), categories.find(entry)):
        if isinstance(found, str):
            return found
    if problem := bbox_problem(entry):
        return problem
    if min(entry["bbox"][2:]) < 0:
        return f"has bbox {show(entry['bbox'])} of negative size; COCO boxes are x, y, width, height"
    if "score" not in entry:
        return "has no score"
    if not is_number(entry["score"]):
        return f"has score {show(entry['score'])}, which is not a finite number"
    return None
