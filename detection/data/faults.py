"""Faults of a data set, collected so that one run names them all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from divdet.engine.errors import UserError, printable
from divdet.engine.files import write_text

SHOWN = 10

# What differs between faults of one cause: quoted text, lists, paths, numbers.
_DETAIL = re.compile(
    r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\S*[/\\]\S*|(?<![a-z])[-+.]?\d[\w.+-]*|\b(?:nan|inf)\b", re.IGNORECASE
)


class DataFault(NamedTuple):
    """One fault.

    Attributes:
        file: the annotation file or image at fault.
        place: where in the file: ``annotations[3] (id 7)``, ``line 4``; empty where it is the whole file.
        what: what is wrong and what to do, as the end of a sentence: ``has no bbox``.
    """

    file: str
    place: str
    what: str

    def __str__(self) -> str:
        return printable(f"{self.file}: {f'{self.place} ' if self.place else ''}{self.what}")


class DataError(UserError):
    """Faults of a data set: the message shows ten; ``faults`` holds them all.

    More than ten are shown by cause: the first of each, and how many more there are.
    """

    def __init__(self, faults: Sequence[DataFault], written: Path | None = None) -> None:
        self.faults = list(faults)
        groups = [[fault] for fault in self.faults] if len(self.faults) <= SHOWN else _by_cause(self.faults)
        lines = [str(group[0]) + _more(group) for group in groups[:SHOWN]]
        if len(self.faults) > 1:
            lines.insert(0, f"{len(self.faults)} faults in the data:")
        left = sum(map(len, groups[SHOWN:]))
        listed = f"{written} lists them all" if written else ""
        if left:
            lines.append(f"… and {left} more" + (f": {listed}" if listed else ""))
        elif len(self.faults) > SHOWN and listed:
            lines.append(listed)
        super().__init__("")
        self.args = ("\n  ".join(lines),)


def write_faults(faults: Sequence[DataFault], path: Path) -> None:
    """Writes one fault a line: file, place and what, separated by tabs."""
    write_text("".join("\t".join(map(printable, fault)) + "\n" for fault in faults), path)


def _by_cause(faults: Sequence[DataFault]) -> list[list[DataFault]]:
    groups: dict[str, list[DataFault]] = {}
    for fault in faults:
        groups.setdefault(_DETAIL.sub("*", fault.what), []).append(fault)
    return list(groups.values())


def _more(group: Sequence[DataFault]) -> str:
    """How many more faults are of the cause of the first, and where: ``(and 290 more lines in 71 files)``."""
    if len(group) == 1:
        return ""
    more, files = len(group) - 1, len({fault.file for fault in group})
    one, many = ("line", "lines") if group[0].place.startswith("line ") else ("entry", "entries")
    if not group[0].place:
        one, many = "file", "files"
    where = "" if files == 1 or not group[0].place else f" in {files} files"
    return f" (and {more} more {one if more == 1 else many}{where})"
