"""One process at a time in a folder."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from engine.errors import UserError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


def lock_folder(folder: Path, name: str = LOCK) -> BinaryIO | None:
    """Locks a folder until the returned file is closed or the process ends, however it ends.

    The lock belongs to this process alone: data workers that outlive it do not hold it. Without support by the file
    system, or where nothing can be written, there is no lock.

    Raises:
        UserError: when another process has it.
    """
    try:
        file = open(folder / name, "ab")  # noqa: SIM115
    except OSError:  # the first file to be written there says why
        return None
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
    return file


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder inside a ``with`` block. Raises UserError as `lock_folder`."""
    lock = lock_folder(folder)
    try:
        yield
    finally:
        if lock is not None:
            lock.close()
