"""One process at a time in a folder."""

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


def lock_folder(folder: Path, name: str = LOCK) -> BinaryIO | None:
    """Locks a folder, by a file in it, until the returned file is closed or the process ends.

    Where nothing can be written there is no lock: the first file to be written there says why.

    Raises:
        UserError: when another process has it.
    """
    try:
        file = open(folder / name, "ab")  # noqa: SIM115
    except OSError:
        return None
    lock_file(file, folder)
    return file


def lock_file(file: BinaryIO, folder: Path) -> None:
    """Locks an open file until it is closed or the process ends, in whatever way.

    The lock belongs to this process alone: data workers that outlive it do not hold it. On a file system without locks
    there is none.

    Args:
        file: opened for writing; closed where the lock is refused.
        folder: its folder, for the message.

    Raises:
        UserError: when another process has it.
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
