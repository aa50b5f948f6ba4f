"""Compiles loops with numba and runs them in threads. Import it on first use only: loading numba takes 0.4 s."""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from numba import njit


def compiled(function: Callable) -> Any:
    """Compile a function on its first call. It runs without Python's GIL, and divides by zero as NumPy does.

    numba caches the machine code in the first of these folders that is writable: $NUMBA_CACHE_DIR, ``__pycache__``
    beside the file, the user's cache folder. Without one, every process compiles again, and a warning says so.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(function, cache=True, **options)
    except RuntimeError:  # the same warning at the same place, which Python shows once
        warnings.warn(
            "numba has no folder to keep compiled code in: every process compiles again; set NUMBA_CACHE_DIR to a "
            "writable folder",
            stacklevel=1,
        )
        return njit(function, **options)


def in_threads(work: Callable[[int, int], object], total: int, threads: int) -> None:
    """Call ``work(first, end)``, which should release the GIL, on consecutive parts of ``range(total)``.

    Each of at most ``threads`` threads takes one part. An exception in any of them is raised here.
    """
    threads = max(1, min(threads, total))
    bounds = [total * i // threads for i in range(threads + 1)]
    if threads == 1:
        work(0, total)
    else:
        list(_pool(os.getpid()).map(work, bounds[:-1], bounds[1:]))


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """One pool per process, since threads do not survive a fork."""
    return ThreadPoolExecutor(os.cpu_count(), "divdet")
