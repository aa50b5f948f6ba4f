"""Detections of many images, and COCO's format of them: ``[{image_id, category_id, bbox: [x, y, w, h], score}, …]``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from detection.data.coco import CocoAnnotations
from detection.data.coco_json import (
    bbox_problem,
    category_name,
    check_entries,
    id_problem,
    is_number,
    read_json,
    show,
)
from detection.data.file_names import FileNames, number_in_name
from divdet.engine.files import write_atomically

BOX_DECIMALS = 2  # of pixels: COCO's own precision
SCORE_DECIMALS = 6


@dataclass
class Results:
    """n detections as columns: 56 bytes each, a tenth of the parsed file.

    Attributes:
        image: int64 [n], index into the annotations' images.
        label: int64 [n], 0-based.
        bbox: float64 [n, 4], x y width height in pixels.
        score: float64 [n].
    """

    image: np.ndarray
    label: np.ndarray
    bbox: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.score)


def rounded(boxes: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [n, 4] xyxy as COCO's xywh, and scores [n], in float64, with the decimals of a results file."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return sides.round(BOX_DECIMALS), np.asarray(scores, np.float64).reshape(-1).round(SCORE_DECIMALS)


def load_results(results_path: str | Path, annotations: CocoAnnotations) -> Results:
    """Read a COCO results file of any detector, to score it against ``annotations``.

    An entry belongs to the image of its ``file_name`` (see ``FileNames``), or without one to that of its ``image_id``.
    Beside a ``file_name``, ``image_id`` may also be text or the number in that name, as detect.py writes it without
    annotations; any other number must be the image's id. An empty list is a valid file.

    Raises:
        UserError: for a file that is not a COCO results file, and for entries that are malformed, contradict
            themselves, or are of images or categories that ``annotations`` does not list.
    """
    path = Path(results_path)
    entries = read_json(path)
    lookup = _Lookup(annotations)
    check_entries(path, "detections", entries, lookup.problem)
    if lookup.names.by_base:
        print(f"{path}: {lookup.names.describe_by_base()}")
    if lookup.renumbered:
        print(f"{path}: images are matched by file_name; their image_id differs from {annotations.path}")
    return Results(
        np.array(lookup.image, np.int64),
        np.array(lookup.label, np.int64),
        np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4),
        np.array([entry["score"] for entry in entries], np.float64),
    )


def save_results(results: Results, annotations: CocoAnnotations, path: Path) -> None:
    """Write a COCO results file atomically, entry by entry: the text is never in memory as a whole."""
    columns = (
        results.image.tolist(),
        results.label.tolist(),
        map(np.ndarray.tolist, results.bbox),
        results.score.tolist(),
    )

    encode = json.JSONEncoder(allow_nan=False).encode  # json.dumps would make one for every entry

    def write(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8") as file:
            separator = "["
            for image, label, bbox, score in zip(*columns, strict=True):
                entry = {"image_id": annotations.images[image].id, "category_id": annotations.category_ids[label]}
                file.write(separator + encode(entry | {"bbox": bbox, "score": score}))
                separator = ", "
            file.write("]" if len(results) else "[]")

    write_atomically(path, write)


class _Lookup:
    """Finds the image and category of one results entry after the other.

    Attributes:
        image, label: of the entries so far.
        names: finds images by file name.
        renumbered: whether an image_id differs from the annotations'.
    """

    def __init__(self, annotations: CocoAnnotations) -> None:
        self.image: list[int] = []
        self.label: list[int] = []
        self.names = FileNames(annotations)
        self.renumbered = False
        self._annotations = annotations
        self._images = {image.id: index for index, image in enumerate(annotations.images)}
        self._labels = {category_id: label for label, category_id in enumerate(annotations.category_ids)}
        self._image_by_name = cache(self._image_by_name)  # an image has many entries

    def problem(self, entry: dict[str, Any]) -> str | None:
        """What is wrong with an entry; where nothing is, its image and label are appended."""
        image = self._image(entry)
        if isinstance(image, str):
            return image
        label = self._label(entry)
        if isinstance(label, str):
            return label
        if problem := bbox_problem(entry):
            return problem
        bbox = entry["bbox"]
        if bbox[2] < 0 or bbox[3] < 0:
            return f"has bbox {show(bbox)} of negative size; COCO boxes are x, y, width, height"
        if not is_number(entry.get("score")):
            return (
                f"has score {show(entry['score'])}, which is not a finite number"
                if "score" in entry
                else "has no score"
            )
        self.image.append(image)
        self.label.append(label)
        return None

    def _image(self, entry: dict[str, Any]) -> int | str:
        """The index of the entry's image, or what is wrong."""
        name, image_id = entry.get("file_name"), entry.get("image_id")
        if name is None:
            if type(image_id) is int and image_id in self._images:
                return self._images[image_id]
            unknown = f"has image_id {image_id}, which {self._annotations.path} does not list"
            return id_problem(entry, "image_id") or f"{unknown}; score against its own images"
        if not isinstance(name, str):
            return f"has file_name {show(name)}, which is not text"
        if type(image_id) not in (int, str, type(None)):
            return f"has image_id {show(image_id)}, which is not an integer"
        return self._image_by_name(name, image_id)

    def _image_by_name(self, name: str, image_id: int | str | None) -> int | str:
        number = number_in_name(image_id) if isinstance(image_id, str) else image_id
        index = self.names.find(name, number)
        if isinstance(index, str):
            return index
        own = self._annotations.images[index].id
        if number not in (own, number_in_name(name), None):
            return (
                f"has image_id {show(image_id)} and file_name {show(name)}, which contradict each other: "
                f"that file is image {own} of {self._annotations.path}"
            )
        self.renumbered |= image_id not in (own, None)
        return index

    def _label(self, entry: dict[str, Any]) -> int | str:
        """The label of the entry's category, or what is wrong."""
        category_id, truth = entry.get("category_id"), self._annotations
        label = self._labels.get(category_id) if type(category_id) is int else None
        if label is None:
            unknown = f"has category_id {category_id}, which {truth.path} does not list; use its category ids"
            return id_problem(entry, "category_id") or unknown
        name = entry.get("category")  # written by detect.py
        if name is not None and name != truth.names[label] and category_name(name) in truth.names:
            return f"has category_id {category_id} and category {show(name)}, which has another id in {truth.path}"
        return label
