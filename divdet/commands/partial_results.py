"""What a run of divdet detect has found so far, saved after every batch, by each of its processes."""

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from divdet.engine.cli import flatten
from divdet.engine.distributed import World
from divdet.engine.errors import UserError
from divdet.engine.files import reason
from divdet.engine.locking import lock_file
from divdet.engine.words import counted

_SYNC_SECONDS = 1.0
_BATCH = re.compile(rb'\{"batch": (\d+), .*\}\n')
_FILE = re.compile(r"detections\.part\d*\.jsonl")


class PartialResults:
    """The finished batches of a run: one line of JSON each, behind a line with the run's settings.

    Each process writes a file of its own, the first one detections.part.jsonl, the others detections.part1.jsonl and
    so on, so that a run may go on in another number of processes. A line is with the operating system before the next
    batch, and on the disk a second later. One that a kill or power cut left unfinished is dropped. Memory holds only
    the numbers and places of batches.

    Args:
        folder: of the files. UserError if another process writes there.
        settings: of the run, as nested dicts; a resumed run must have the same.
        resume: continue with what the files hold. Else files that hold batches are refused; None says that this kind of
            run cannot be continued.
        world: all processes of the run, which must come here together.

    Attributes:
        path: this process's file.
        done: numbers of the batches that earlier processes have finished.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], resume: bool | None, world: World) -> None:
        self.folder, self._settings, self._synced = folder, json.loads(json.dumps(settings)), time.monotonic()
        self.path = folder / f"detections.part{world.replica or ''}.jsonl"
        if world.is_main_process:
            self._open()
        # Before any process writes, so that all of them see the same batches as done
        self.done: set[int] = world.await_main(lambda: self._check(resume))
        if not world.is_main_process:
            self._open()
        if not self._file.tell():
            self._write(self._settings)

    def _open(self) -> None:
        """Opens and locks this process's file, behind its last whole line."""
        try:
            self._file = open(self.path, "a+b")  # noqa: SIM115  (open, and locked, until the run ends)
            lock_file(self._file, self.folder)
            places = _read(self._file)[1]
            self._file.truncate(max((end for _, _, end in places), default=0))
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read or written ({reason(error)})") from error

    def _check(self, resume: bool | None) -> set[int]:
        """The finished batches of all files. UserError if they are of another run."""
        done: set[int] = set()
        for path in self._files():
            with self._reading(path) as file:
                first, places = _read(file)
            if not places:
                continue
            if not resume:
                go_on = "" if resume is None else "add --resume auto to continue it, "
                raise UserError(
                    f"{path}: holds {counted(len(places), 'batch', 'batches')} of a stopped run: {go_on}choose "
                    "another --output, or remove the file"
                )
            earlier, wanted = flatten(first), flatten(self._settings)
            if changed := sorted(key for key in earlier.keys() | wanted.keys() if earlier.get(key) != wanted.get(key)):
                raise UserError(
                    f"{path}: the stopped run had different {changed[0]}: continue it with the same, choose another "
                    "--output, or remove the file"
                )
            done |= {number for number, _, _ in places}
        return done

    def _files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if _FILE.fullmatch(path.name))

    def _reading(self, path: Path) -> AbstractContextManager[BinaryIO]:
        """A file, open to be read. This process's own stays open: closing it anywhere would give up its lock."""
        return nullcontext(self._file) if path == self.path else open(path, "rb")

    def add(self, number: int, images: Sequence[dict[str, Any]], unreadable: Sequence[str]) -> None:
        """Saves a batch: what was found in each image (see ``result_files``), and why others were not read."""
        self._write({"batch": number, "images": images, "unreadable": unreadable})

    def _write(self, line: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            self._file.flush()
            if time.monotonic() > self._synced + _SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({reason(error)}); the batches before are kept") from error

    def batches(self) -> Iterator[dict[str, Any]]:
        """All batches of all processes, by number, one in memory at a time."""
        places: dict[int, tuple[BinaryIO, int]] = {}
        with ExitStack() as stack:
            for path in self._files():
                file = stack.enter_context(self._reading(path))
                places |= {number: (file, begin) for number, begin, _ in _read(file)[1]}
            for number in sorted(places):
                file, begin = places[number]
                file.seek(begin)
                yield json.loads(file.readline())

    def images(self) -> Iterator[dict[str, Any]]:
        """What was found in each image, in the order of the batches."""
        return (image for batch in self.batches() for image in batch["images"])

    def remove(self) -> None:
        """Removes the files, when all results are written elsewhere."""
        self._file.close()
        for path in self._files():
            path.unlink(missing_ok=True)


def _read(file: BinaryIO) -> tuple[dict[str, Any], list[tuple[int, int, int]]]:
    """The settings of a file, and for each whole line of a batch its number, begin and end."""
    file.seek(0)
    try:
        first = json.loads(file.readline())
    except (ValueError, RecursionError):
        first = None
    if not isinstance(first, dict):
        return {}, []
    places, begin = [], file.tell()
    for line in file:
        if not (found := _BATCH.fullmatch(line)):
            break
        places.append((int(found[1]), begin, begin := begin + len(line)))
    return first, places
