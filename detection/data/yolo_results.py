"""Detections as ``yolo predict save_txt=True save_conf=True`` writes them: a text file for each image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from detection.data.entry_values import Fault
from detection.data.formats.text_files import read_text
from divdet.engine.errors import UserError

if TYPE_CHECKING:
    from detection.data.annotations import CocoAnnotations
    from detection.data.file_names import FileNames

Row = tuple[int, int, list[float], float]  # image, label, x y width height in pixels, score


def label_files(folder: Path) -> list[Path]:
    """The label files of ``labels`` in a folder, or of itself; none where it has none, or is no folder."""
    return sorted(folder.glob("labels/*.txt")) or sorted(folder.glob("*.txt"))


def read_yolo_results(files: list[Path], annotations: CocoAnnotations, names: FileNames) -> list[Row]:
    """Reads label files with confidences, each of the image of its name; ``names`` are those of the annotations.

    Classes are numbered from 0: those of the annotations' own list in YOLO's format, else in the order of their ids. An
    image without a file has no detections.

    Raises:
        UserError: for the first file or line that is none of such detections, or of another image or class.
    """
    rows = []
    ids = sorted((number, label) for label, number in enumerate(annotations.category_ids) if number is not None)
    labels = {number - 1 if annotations.named else rank: label for rank, (number, label) in enumerate(ids)}
    for file in files:
        images = names.of_stem(file.stem)
        if len(images) != 1:
            raise UserError(f"{file}: is of {'several images' if images else 'no image'} of {annotations.path}")
        image = annotations.images[images[0]]
        if not (image.width and image.height):
            missing = f"{annotations.path} has no size of {image.file_name}: add its width and height"
            raise UserError(f"{file}: holds fractions, but {missing}")
        for place, line in enumerate(read_text(file).splitlines(), 1):
            try:
                rows += [(images[0], *found) for found in _read_line(line, labels, image.width, image.height)]
            except Fault as fault:
                raise UserError(f"{file}: line {place} {fault}") from fault
    shown = ", ".join(f"{number} {annotations.names[label]}" for number, label in list(labels.items())[:3])
    print(f"{files[0].parent}: classes are numbered as {shown}{', …' if len(labels) > 3 else ''}")
    return rows


def _read_line(line: str, labels: dict[int, int], width: int, height: int) -> list[tuple[int, list[float], float]]:
    """The detection of a line; none of an empty one."""
    words = line.split()
    if not words:
        return []
    if len(words) != 6:
        raise Fault(f"has {len(words)} columns: a detection is class cx cy w h confidence (yolo's save_conf=True)")
    try:
        number, x, y, w, h, score = map(float, words)
    except ValueError:
        raise Fault("has a word that is no number") from None
    if number not in labels:
        raise Fault(f"has class {words[0]}, which the annotations do not have: they are {min(labels)} to {max(labels)}")
    if not all(-1 <= value <= 2 for value in (x, y, w, h)) or w < 0 or h < 0:
        raise Fault("has a box that is no fractions of the image: center, width and height, 0 to 1")
    if not 0 <= score <= 1:
        raise Fault(f"has confidence {words[5]}: it must be 0 to 1")
    return [(labels[int(number)], [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height], score)]
