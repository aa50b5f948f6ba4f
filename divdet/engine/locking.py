"""Locks: one process at a time in a folder."""

import errno
import sys
from pathlib import Path
from typing import BinaryIO

from divdet.engine.errors import UserError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


def lock_folder(folder: Path) -> BinaryIO | None:
    """Locks a folder by a file in it, until that file is closed or the process ends.

    Returns None where nothing can be written: the first write there will say why.

    Raises:
        UserError: where another process holds the lock.
    """
    try:
        file = open(folder / LOCK, "ab")  # noqa: SIM115
    except OSError:
        return None
    lock_file(file, folder)
    return file


def lock_file(file: BinaryIO, folder: Path) -> None:
    """Locks an open file of ``folder`` until it is closed or the process ends, in whatever way.

    The lock belongs to this process alone, so data workers that outlive it do not hold it. File systems without locks
    are not an error.

    Raises:
        UserError: where another process holds the lock; the file is closed.
    """
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            file.close()
            raise UserError(
                f"{folder}: another process is writing to this folder: wait for it, stop it, or choose another --output"
            ) from error
