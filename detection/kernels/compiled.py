"""Loops compiled by numba, and their threads. Import it on first use only: numba takes long to import.

Compiled functions copy arrays element by element: NumPy's shorter forms multiply the time of compilation.
"""

import os
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

from numba import njit

Result = TypeVar("Result")


def compiled(signature: str | None = None) -> Callable[[Callable], Any]:
    """A decorator: compiles a function for the one ``signature`` (None: at a call, for what it is called with), without
    Python's lock, division by zero as in NumPy.

    The machine code is kept in the first of these that can be written: $NUMBA_CACHE_DIR, ``__pycache__`` beside the
    file, the user's cache folder. Where none can, every process compiles anew, and a warning says so.
    """

    def decorate(function: Callable) -> Any:
        dispatcher: Any = njit(nogil=True, error_model="numpy")(function)
        try:
            dispatcher.enable_caching()
        except RuntimeError as error:
            warnings.warn(
                f"{error}: compiling anew in every process; set NUMBA_CACHE_DIR to a writable folder", stacklevel=2
            )
        if signature:
            dispatcher.compile(signature)
            dispatcher.disable_compile()
        return dispatcher

    return decorate


def in_threads(work: Callable[[int, int], Result], total: int, threads: int) -> Iterable[Result]:
    """Calls ``work(first, end)`` for consecutive parts of 0..total, in ``threads`` threads; their results in order.

    For work that leaves Python's lock. The threads are the process's own: a forked one starts new ones.
    """
    threads = min(threads, total)
    if threads <= 1:
        return [work(0, total)]
    size = -(-total // threads)
    starts = range(0, total, size)
    return list(_pool(os.getpid()).map(work, starts, [min(start + size, total) for start in starts]))


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "divdet")


@njit
def sort_descending(order, start, end, keys, spare):
    """Sort order[start:end], positions in ``keys``, by falling key; stable. ``spare`` is as long as ``order``.

    numba's cache of a caller in another file does not notice changes here: after one, remove ``__pycache__/*.nbi``.
    """
    width = 8
    for low in range(start, end, width):
        for i in range(low + 1, min(low + width, end)):
            moved = order[i]
            while i > low and keys[order[i - 1]] < keys[moved]:
                order[i] = order[i - 1]
                i -= 1
            order[i] = moved
    while width < end - start:
        for low in range(start, end - width, 2 * width):
            middle, high = low + width, min(low + 2 * width, end)
            if keys[order[middle - 1]] >= keys[order[middle]]:
                continue
            for i in range(low, middle):
                spare[i] = order[i]
            left, right, out = low, middle, low
            while left < middle:
                if right == high or keys[spare[left]] >= keys[order[right]]:
                    order[out] = spare[left]
                    left += 1
                else:
                    order[out] = order[right]
                    right += 1
                out += 1
        width *= 2
