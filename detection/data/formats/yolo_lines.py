"""The lines of YOLO's label files."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from detection.data.entry_values import Fault, show
from detection.data.faults import DataFault
from detection.data.formats.text_files import read_text
from detection.data.formats.yolo_forms import MAX_CLASS, LineForms
from divdet.engine.errors import UserError

REPEATED_LINES = "repeated lines of labels, which count once"
OUTLINES = "outlines or poses, of which the box is taken"

_EXACT = 17  # decimals of a double


class ClassFault(Fault):
    """A class that is no number of a class."""


class BoxFault(Fault):
    """Coordinates that are no box in the image."""


class LabelRow(NamedTuple):
    """An object.

    Attributes:
        line: in its file, from 1.
        label: number of its class.
        values: fractions: center and size, or two corners.
        decimals: that its numbers are written with.
        corners: whether the values are corners.
    """

    line: int
    label: int
    values: list[float]
    decimals: int
    corners: bool


class LabelReader:
    """Reads the label files of a split.

    Args:
        names: of classes, by number; None: any number is one.
        pose: columns of key points behind a box.
        counts: receives what was changed.
    """

    def __init__(self, names: dict[int, str] | None, pose: int, counts: Counter[str]) -> None:
        self._names = names
        self._pose = pose
        self._counts = counts
        self._faults: list[tuple[Fault | None, DataFault]] = []
        self._forms = LineForms(names)

    def read(self, file: Path, size: tuple[int, int]) -> list[LabelRow]:
        """The objects of a file, those of equal lines once; ``size`` is its image's width and height."""
        try:
            lines = read_text(file).split("\n")
        except UserError as error:
            self._faults.append((None, DataFault(str(file), "", str(error).removeprefix(f"{file}: "))))
            return []
        rows: dict[tuple, LabelRow] = {}
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words:
                continue
            self._forms.add(words[:5] if self._pose and len(words) == 5 + self._pose else words, file, number, size)
            try:
                label, values, corners = self._read_line(words)
            except Fault as fault:
                self._faults.append((fault, DataFault(str(file), f"line {number}", str(fault))))
                continue
            key = (label, *values)
            self._counts[REPEATED_LINES] += key in rows
            self._counts[OUTLINES] += len(words) > 5 and key not in rows
            rows.setdefault(key, LabelRow(number, label, values, max(map(_decimals, words[1:])), corners))
        return list(rows.values())

    def faults(self) -> tuple[list[str], list[DataFault]]:
        """What is wrong with all lines alike, and the faults of single lines that this does not explain."""
        classes, boxes = self._forms.wrong_classes(), self._forms.wrong_boxes()
        explained = tuple(kind for kind, what in ((ClassFault, classes), (BoxFault, boxes)) if what)
        if self._forms.class_is_last():  # so what is read as boxes is none
            boxes, explained = "", (ClassFault, BoxFault)
        single = [place for fault, place in self._faults if not isinstance(fault, explained)]
        return [what for what in (classes, boxes) if what], single

    def _read_line(self, words: list[str]) -> tuple[int, list[float], bool]:
        """Class, four numbers, and whether they are corners instead of a center and a size."""
        label = self._read_class(words[0])
        values = [_number(word) for word in words[1:]]
        if len(words) == 6:
            raise Fault("has 6 columns: class, box and a confidence, as predictions have; labels have no confidence")
        flags = set(values[6::3])  # of key points x y visible, which would pass as points of an outline
        certain = 2 in flags or len(values) >= 16  # an outline may touch the border a few times
        if not self._pose and len(values) % 3 == 1 and flags <= {0, 1, 2} and certain:
            raise Fault(f"has a box and a pose: set kpt_shape: [{len(values) // 3 - 1}, 3] in data.yaml")
        outline = len(values) >= 6 and len(values) % 2 == 0 and len(values) != 4 + self._pose
        if not (len(values) == 4 or (self._pose and len(values) == 4 + self._pose) or outline):
            raise Fault(
                f"has {len(words)} columns: a line is class cx cy w h, or class and the points x y of an outline"
            )
        values = values if outline else values[:4]
        if out := [word for word, value in zip(words[1:], values, strict=False) if not -1 <= value <= 2]:
            raise BoxFault(
                f"has {out[0]}: coordinates are fractions of the image's width and height, 0 to 1, not pixels"
            )
        if outline:
            xs, ys = values[0::2], values[1::2]
            values = corners = [min(xs), min(ys), max(xs), max(ys)]
        else:
            x, y, w, h = values
            if w < 0 or h < 0:
                raise BoxFault(f"has a width or height below 0: {words[3]} {words[4]}; a line is class cx cy w h")
            corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        if min(corners[2:]) < 0 or max(corners[:2]) > 1:
            raise BoxFault(f"has a box outside the image: {' '.join(words[1:5])} (fractions of its width and height)")
        return label, values, outline

    def _read_class(self, word: str) -> int:
        try:
            label = float(word)
        except ValueError:
            numbers = [str(number) for number, name in (self._names or {}).items() if name == word]
            what = f"which is a name: write its number, {numbers[0]}" if numbers else "which is no class number"
            what += "; separate numbers by spaces" if set(word) & set(",;") else ""
            raise ClassFault(f"has class {show(word)}, {what}") from None
        if not 0 <= label < math.inf or label != int(label):
            raise ClassFault(f"has class {word}, which is no class number: count from 0")
        if self._names is not None and int(label) not in self._names:
            known, first = len(self._names), min(self._names, default=0)
            raise ClassFault(f"has class {word}, but the list of names has {known} classes, counted from {first}")
        if self._names is None and label >= MAX_CLASS:
            raise ClassFault(f"has class {word}, which is too large without a list of names")
        return int(label)


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise Fault(f"has {show(word)}, which is no number; separate numbers by spaces") from None
    if not math.isfinite(value):
        raise Fault(f"has {word}, which is no finite number")
    return value


def _decimals(word: str) -> int:
    return _EXACT if "e" in word or "E" in word else len(word.partition(".")[2])
