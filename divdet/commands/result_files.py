"""What was found in many images, as files: written as it is read, whatever its length.

An image is a dict with ``image_id``, ``file_name``, ``width``, ``height`` and ``objects``; an object one with
``category_id``, ``category``, ``bbox`` (x, y, width, height in pixels) and ``score``.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from divdet.engine.files import write_atomically, write_text

_COLUMNS = ("image_id", "file_name", "category_id", "category", "score", "x1", "y1", "x2", "y2")


def write_results(
    images: Callable[[], Iterable[dict[str, Any]]], folder: Path, names: Sequence[str], save: Iterable[str]
) -> None:
    """Writes detections.json, COCO's results, and of the files that ``save`` names those of all images.

    ``jsonl`` has a line for each image, also for one without objects; ``csv`` one for each object; ``yolo`` names the
    classes of its label files.

    Args:
        images: gives all images anew whenever it is called.
        folder: of the files.
        names: class names by label.
        save: as ``--save``.
    """
    for name, write in (("json", _write_json), ("jsonl", _write_lines), ("csv", _write_csv)):
        if name == "json" or name in save:
            write_atomically(folder / f"detections.{name}", lambda path, write=write: _written(path, write, images()))
    if "yolo" in save:
        write_text("\n".join(names) + "\n", folder / "classes.txt")


def _written(path: Path, write: Callable[..., None], images: Iterable[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        write(file, images)


def entries(images: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """COCO results of the objects, each with its image's ``image_id`` and ``file_name``."""
    for image in images:
        for found in image["objects"]:
            yield {"image_id": image["image_id"], "file_name": image["file_name"]} | found


def _write_json(file: TextIO, images: Iterable[dict[str, Any]]) -> None:
    separator = "[\n"
    for entry in entries(images):
        file.write(separator + json.dumps(entry, allow_nan=False))
        separator = ",\n"
    file.write("[]\n" if separator == "[\n" else "\n]\n")


def _write_lines(file: TextIO, images: Iterable[dict[str, Any]]) -> None:
    file.writelines(json.dumps(image, allow_nan=False) + "\n" for image in images)


def _write_csv(file: TextIO, images: Iterable[dict[str, Any]]) -> None:
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(_COLUMNS)
    for entry in entries(images):
        x, y, width, height = entry["bbox"]
        corners = (round(value, 2) for value in (x, y, x + width, y + height))
        rows.writerow([*(entry[column] for column in _COLUMNS[:5]), *corners])
