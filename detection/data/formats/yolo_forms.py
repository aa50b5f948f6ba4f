"""Label files written in another form than class cx cy w h, found out from all lines of a split."""

from __future__ import annotations

import math
from array import array
from pathlib import Path

import numpy as np

from detection.data.box_notations import CENTER, CORNER, CORNERS, FEW, MANY, other_form
from detection.data.entry_values import reads_as_number, show

MAX_CLASS = 10**4  # without a list of names
_MOST, _NEARLY_ALL = 0.5, 0.95  # shares of the lines
_SHOWN = 3
_TO_CENTER = {
    CORNERS: "cx is (x1 + x2) / 2 and w is x2 - x1",
    CORNER: "add half of w and h to the first two",
}


class LineForms:
    """What the lines of a split have in common.

    Args:
        names: of classes, by number; None: none are known.
    """

    def __init__(self, names: dict[int, str] | None) -> None:
        self._names = names
        self._rows = array("d")  # seven a line: class (NaN for a name), four numbers, width and height of the image
        self._lines = array("q")
        self._files: list[Path] = []
        self._text: dict[int, str] = {}  # classes that are names, by line

    def add(self, words: list[str], file: Path, line: int, size: tuple[int, int]) -> None:
        """Notes a line of a class and four numbers; others, of outlines and such, have no form that could be wrong."""
        if len(words) < 5:
            return
        try:
            box = [float(word) for word in words[-4:]]
        except ValueError:
            return
        if not all(map(math.isfinite, box)):
            return
        text = " ".join(words[:-4])
        try:
            label = float(text)
        except ValueError:
            if any(map(reads_as_number, words[:-4])):
                return
            label = float("nan")
            self._text[len(self._lines)] = text
        self._rows.extend((label, *box, *size))
        self._lines.append(line)
        self._files.append(file)

    def wrong_classes(self) -> str:
        """What is wrong with the classes of most lines, as the end of a sentence; empty where they are numbers."""
        table = self._table()
        if not len(table):
            return ""
        label = table[:, 0]
        if (named := np.isnan(label)).mean() > _MOST:
            known = {name: number for number, name in (self._names or {}).items()}
            numbers = [f"{name} {known[name]}" for name in dict.fromkeys(self._text.values()) if name in known]
            what = f" ({', '.join(numbers[:_SHOWN])}{', …' if len(numbers) > _SHOWN else ''})" if numbers else ""
            first = f"{self._example(named)}: {show(next(iter(self._text.values())))}"
            return (
                f"has names of classes instead of their numbers ({first}): write numbers, counted from 0 in the order "
                f"of the list of names{what}"
            )
        if self.class_is_last():
            return (
                f"has the class at the end of its lines ({self._example(~self._is_class(label))}): a line is class cx "
                "cy w h; put the last column first"
            )
        names = self._names or {}
        beyond = label == len(names)
        numbered = (
            bool(names) and list(names) == list(range(len(names))) and label.min() >= 1 and label.max() == len(names)
        )
        if numbered and beyond.sum() >= FEW and beyond.mean() >= MANY:
            return (
                f"has classes numbered from 1 to {len(names)} ({self._example(beyond)}: class "
                f"{len(names)}), but the {len(names)} names are counted from 0: subtract 1 from each class"
            )
        return ""

    def class_is_last(self) -> bool:
        """Whether the last column has the classes."""
        table = self._table()
        if not len(table):
            return False
        first, last = self._is_class(table[:, 0]), self._is_class(table[:, 4])
        return bool(first.mean() < 1 - _MOST and last.mean() >= _NEARLY_ALL)

    def wrong_boxes(self) -> str:
        """What most boxes look like instead of center and size in fractions; empty where they are that."""
        table = self._table()
        if not len(table):
            return ""
        boxes, size = table[:, 1:5], table[:, 5:]
        far = (boxes > 2).any(axis=1)
        if far.mean() > _MOST:
            other = other_form(boxes, size, CENTER)
            return (
                f"has boxes in pixels or percent ({self._share(far)} have a value above 2"
                + (f", and they look like {other[0]}" if other else "")
                + "): YOLO's are fractions of the image; divide x and width by the image's width, y and height by its "
                "height (x and y are the center)"
            )
        if not (other := other_form(boxes * np.tile(size, 2), size, CENTER)):
            return ""
        name, beyond = other
        return (
            f"has boxes that look like {name} ({self._share(beyond)} pass the border of their image as center and "
            f"size): YOLO's are cx, cy, w, h, the center and size; {_TO_CENTER[name]}; or, if they are right, cut "
            "them at the border"
        )

    def _table(self) -> np.ndarray:
        return np.frombuffer(self._rows, np.float64).reshape(-1, 7)

    def _is_class(self, values: np.ndarray) -> np.ndarray:
        if self._names is not None:
            return np.isin(values, list(self._names))
        return (values >= 0) & (values < MAX_CLASS) & (values == np.floor(values))

    def _example(self, chosen: np.ndarray) -> str:
        first = int(np.argmax(chosen))
        return f"{self._share(chosen)}, such as {self._files[first]}, line {self._lines[first]}"

    def _share(self, chosen: np.ndarray) -> str:
        return f"{chosen.sum()} of {len(chosen)}"
