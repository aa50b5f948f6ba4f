"""Fingerprints of data, by which a resumed run notices that they have changed."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


def digest(*parts: Any) -> str:
    """A hash of arrays (their type, shape and content) and of plain values (their ``repr``), in this order."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype} {part.shape} ".encode())
            total.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
        else:
            total.update(f"{part!r} ".encode("utf-8", "backslashreplace"))
    return total.hexdigest()


def file_sizes(paths: Iterable[str | Path]) -> np.ndarray:
    """The files' sizes in bytes, int64 [n]; -1 for one that cannot be found, which reading it will report."""
    return np.array([_size(path) for path in paths], np.int64)


def _size(path: str | Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
