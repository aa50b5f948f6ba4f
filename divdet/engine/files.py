"""Atomic writes, and errors of reading and writing in plain words."""

import errno
import json
import os
import stat
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from divdet.engine.errors import UserError


def refuse_special(path: str | Path) -> None:
    """Raises UserError for devices and named pipes, which may never end; the shell's ``<(…)`` is accepted."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # reading it will say why
        return
    named = stat.S_ISFIFO(mode) and not str(path).startswith(("/dev/", "/proc/"))
    if named or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise UserError(f"{path}: a named pipe or a device, not a file")


def reason(error: OSError) -> str:
    """Why a write failed, in plain words."""
    plain = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
    return plain.get(error.errno) or error.strerror or str(error)


def make_folder(path: str | Path) -> Path:
    """Creates a folder and its parents; raises UserError where that fails."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be created ({reason(error)}); choose another --output") from error
    return path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls ``write(temporary path)`` and moves the file into place, so readers see the old or the new one.

    Raises:
        UserError: where it cannot be written.
    """
    temporary = path.with_name(f"{_unfinished(path)}{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "r+b") as file:  # Windows cannot sync a file open for reading
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        kept = "; the earlier file there is kept" * path.exists()
        raise UserError(f"{path}: cannot be written ({reason(error)}){kept}") from error
    finally:
        with suppress(OSError):  # a read-only file system raises even for a missing file
            temporary.unlink(missing_ok=True)


def _unfinished(path: Path) -> str:
    number = zlib.crc32(os.fsencode(path.name))  # the name itself may have the longest length allowed
    return f".{number:08x}."


def remove_unfinished(*paths: Path) -> None:
    """Removes temporary files that killed processes left; no other process may be writing ``paths``."""
    prefixes: dict[Path, set[str]] = {}
    for path in paths:
        prefixes.setdefault(path.parent, set()).add(_unfinished(path))
    for folder, names in prefixes.items():
        for left in [file for file in folder.glob(".????????.*.tmp") if file.name[:10] in names]:
            try:
                left.unlink()
            except OSError as error:
                raise UserError(
                    f"{left}: is left from a killed run and cannot be removed ({error.strerror})"
                ) from error


def write_text(text: str, path: Path) -> None:
    """Writes UTF-8 text atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(value: Any, path: Path, indent: int | None = 2) -> None:
    """Writes JSON atomically; raises ValueError for NaN and infinity, which JSON lacks."""
    write_text(json.dumps(value, indent=indent, allow_nan=False), path)
