"""Fingerprints of data: a resumed run notices by them that its data has changed.

Image files are known by name and size in bytes alone, since opening them takes long: another image of the same name
and size goes unnoticed. Times are left out, since copying changes them.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


def digest(*parts: Any) -> str:
    """A hash of arrays (dtype, shape and content) and plain values (their ``repr``), in this order."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype} {part.shape} ".encode())
            total.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
        else:
            total.update(f"{part!r} ".encode("utf-8", "backslashreplace"))
    return total.hexdigest()


def digest_file(path: str | Path) -> str:
    """A hash of a file's content."""
    total = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while part := file.read(2**20):
            total.update(part)
    return total.hexdigest()


def file_sizes(paths: Iterable[str | Path]) -> np.ndarray:
    """The files' sizes in bytes, int64 [n]; -1 for one that cannot be found: reading it will raise the error."""

    def size(path: str | Path) -> int:
        try:
            return os.stat(path).st_size
        except OSError:
            return -1

    return np.array([size(path) for path in paths], np.int64)
