"""What a run of detect.py has found so far, saved after every batch."""

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from divdet.engine.cli import flatten
from divdet.engine.errors import UserError
from divdet.engine.files import reason
from divdet.engine.locking import lock_file

_KEYS = {"images", "empty", "entries", "unreadable"}


class PartialResults:
    """The finished ``batches`` of a run: one line of JSON each in the file, behind a line with the run's settings.

    A line is on the disk before the next batch begins. A line that a kill or power cut left unfinished is dropped.

    Args:
        path: the file. UserError if another process writes it.
        settings: of the run, as nested dicts; a resumed run must have the same.
        resume: continue with what the file holds. Without it a file that holds batches is refused.
    """

    def __init__(self, path: Path, settings: dict[str, Any], resume: bool) -> None:
        self.path = path
        try:
            self._file = open(path, "a+b")  # noqa: SIM115  (open, and locked, until the run ends)
            lock_file(self._file, path.parent)
            (earlier, *self.batches), size = _read(self._file)
            if self.batches:
                self._check(flatten(earlier), flatten(settings), resume)
            self._file.truncate(size if self.batches else 0)
        except OSError as error:
            raise UserError(f"{path}: cannot be read or written ({reason(error)})") from error
        if not self.batches:
            self._write(settings)

    def _check(self, earlier: dict[str, Any], settings: dict[str, Any], resume: bool) -> None:
        if not resume:
            raise UserError(
                f"{self.path}: holds {len(self.batches)} batches of a stopped run: add --resume auto to "
                "continue it, choose another --output, or remove the file"
            )
        changed = sorted(key for key in earlier.keys() | settings.keys() if earlier.get(key) != settings.get(key))
        if changed:
            raise UserError(
                f"{self.path}: the stopped run had different {changed[0]}: continue it with the same, choose "
                "another --output, or remove the file"
            )

    def add(self, batch: dict[str, Any]) -> None:
        """Save a batch: how many ``images`` were read and how many are ``empty``, ``entries``, ``unreadable``."""
        self._write(batch)
        self.batches.append(batch)

    def _write(self, line: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({reason(error)}); the batches before are kept") from error

    def remove(self) -> None:
        """Remove the file, when all results are written elsewhere."""
        self._file.close()
        self.path.unlink(missing_ok=True)


def _read(file: BinaryIO) -> tuple[list[dict[str, Any]], int]:
    """The first line and all finished batches, and their size in bytes."""
    lines, size = [{}], 0
    file.seek(0)
    for number, line in enumerate(file):
        try:
            value = json.loads(line) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):
            break
        if not isinstance(value, dict) or (number and value.keys() != _KEYS):
            break
        lines[number:] = [value]
        size += len(line)
    return lines, size
