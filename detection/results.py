"""Detections of many images, and COCO's format of them: ``[{image_id, category_id, bbox: [x, y, w, h], score}, …]``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from detection.annotations import CocoAnnotations
from detection.coco_json import (
    MAX_COORDINATE,
    bbox_problem,
    check_objects,
    entry_error,
    id_problem,
    is_number,
    read_json,
    show,
)
from engine.files import write_atomically

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

    Raises UserError for a file that is not a COCO results file and for malformed entries, or entries of images or
    categories that ``annotations`` does not list. An empty list is a legitimate result.
    """
    path = Path(results_path)
    entries = check_objects(path, read_json(path), "the results file")
    positions = {image.id: position for position, image in enumerate(annotations.images)}
    labels = {category_id: label for label, category_id in enumerate(annotations.category_ids)}
    results = _columns(entries, positions, labels)
    if results is None:
        for index, entry in enumerate(entries):
            problem = _problem(entry, positions, labels, annotations.path)
            if problem:
                raise entry_error(path, "detections", index, entry, problem)
        raise AssertionError(f"{path}: no entry of it is at fault")
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


def _columns(entries: list[dict[str, Any]], positions: dict[int, int], labels: dict[int, int]) -> Results | None:
    """All entries at once; None where ``_problem`` finds one in any of them."""
    try:
        images, categories, boxes, scores = (
            [entry[key] for entry in entries] for key in ("image_id", "category_id", "bbox", "score")
        )
        if {type(value) for value in chain(images, categories)} - {int} or {type(box) for box in boxes} - {list}:
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
    image = np.array([positions.get(value, -1) for value in images], np.int64)
    label = np.array([labels.get(value, -1) for value in categories], np.int64)
    finite = (np.abs(bbox) <= MAX_COORDINATE).all() and (np.abs(score) <= MAX_COORDINATE).all()
    known = (image >= 0).all() and (label >= 0).all()
    return Results(image, label, bbox, score) if finite and known and (bbox[:, 2:] >= 0).all() else None


def _problem(entry: dict[str, Any], images: dict[int, int], categories: dict[int, int], truth: Path) -> str | None:
    problem = id_problem(entry, "image_id") or id_problem(entry, "category_id") or bbox_problem(entry)
    if problem:
        return problem
    if entry["image_id"] not in images:
        return f"has image_id {entry['image_id']}, which {truth} does not list; score against its own images"
    if entry["category_id"] not in categories:
        return f"has category_id {entry['category_id']}, which {truth} does not list; use its category ids"
    if min(entry["bbox"][2:]) < 0:
        return f"has bbox {show(entry['bbox'])} of negative size; COCO boxes are x, y, width, height"
    if "score" not in entry:
        return "has no score"
    if not is_number(entry["score"]):
        return f"has score {show(entry['score'])}, which is not a finite number"
    return None
