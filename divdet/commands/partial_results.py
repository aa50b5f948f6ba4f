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
    """The finished batches of a run, a line of JSON each; the first line holds the settings of the run.

    A line is on the disk before the next batch begins. A line that a kill or power cut left unfinished is dropped.

    Args:
        path: the file.
        begun_with: settings, as nested dicts; a resumed run must have the same.
        resume: continue with what the file holds. Without it a file that holds batches is refused.

    Attributes:
        batches: the finished ones, in order.

    Raises:
        UserError: where the file holds batches of another run, cannot be read or written, or another process writes it.
    """

    def __init__(self, path: Path, begun_with: dict[str, Any], resume: bool) -> None:
        self.path = path
        try:
            self._file = open(path, "a+b")  # noqa: SIM115  (open, and locked, as long as the run goes on)
            lock_file(self._file, path.parent)
            (begun, *self.batches), size = _read(self._file)
            if self.batches:
                self._check(begun, begun_with, resume)
            self._file.truncate(size if self.batches else 0)
        except OSError as error:
            raise UserError(f"{path}: cannot be read or written ({reason(error)})") from error
        if not self.batches:
            self._write(begun_with)

    def _check(self, begun: dict[str, Any], begun_with: dict[str, Any], resume: bool) -> None:
        if not resume:
            raise UserError(
                f"{self.path}: holds {len(self.batches)} batches of a stopped run: add --resume auto to "
                "continue it, choose another --output, or remove the file"
            )
        old, new = flatten(begun), flatten(begun_with)
        changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        if changed:
            raise UserError(
                f"{self.path}: the stopped run had different {changed[0]}: continue it with the same, choose "
                "another --output, or remove the file"
            )

    def add(self, batch: dict[str, Any]) -> None:
        """Adds a batch: how many ``images`` were read and how many are ``empty``, ``entries``, ``unreadable``."""
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
        """Removes the file, when all results are written elsewhere."""
        self._file.close()
        self.path.unlink(missing_ok=True)


def _read(file: BinaryIO) -> tuple[list[dict[str, Any]], int]:
    """The first line and all finished batches, and how many bytes they have."""
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
