"""Faults of a data set, collected so that one run names them all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from divdet.engine.errors import UserError, printable
from divdet.engine.files import write_text

SHOWN = 10


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
    """Faults of a data set: the message shows the first ten; ``faults`` holds them all."""

    def __init__(self, faults: Sequence[DataFault], written: Path | None = None) -> None:
        self.faults = list(faults)
        lines = [str(fault) for fault in self.faults[:SHOWN]]
        if len(self.faults) > 1:
            lines.insert(0, f"{len(self.faults)} faults in the data:")
        if len(self.faults) > SHOWN:
            lines.append(f"… and {len(self.faults) - SHOWN} more" + (f": {written} lists them all" if written else ""))
        super().__init__("")
        self.args = ("\n  ".join(lines),)


def write_faults(faults: Sequence[DataFault], path: Path) -> None:
    """Writes one fault a line: file, place and what, separated by tabs."""
    write_text("".join("\t".join(map(printable, fault)) + "\n" for fault in faults), path)
