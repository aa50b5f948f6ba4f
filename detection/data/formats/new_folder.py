"""Folders that appear when they are complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from divdet.engine.errors import UserError
from divdet.engine.files import make_folder, reason


def refuse_filled(folder: Path) -> None:
    """Raises UserError where the folder holds files."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already and not empty; choose another --output, or remove it")


def into_new_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Calls ``write(temporary folder)`` and moves the folder into place; raises UserError where one holds files."""
    refuse_filled(folder)
    make_folder(folder.absolute().parent)
    temporary = folder.absolute().with_name(f".{folder.absolute().name[:200]}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        write(temporary)
        if folder.is_dir():
            folder.rmdir()
        temporary.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({reason(error)}); nothing is left of it") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
