"""Ends a training step that the memory cannot hold, before the system kills the process without a word."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

_SOURCES = (Path("/proc/meminfo"), Path("/proc/self/status"))
_SHARE = 0.9  # of that memory: gradients and what operations work with come on top


@contextmanager
def within_memory() -> Iterator[None]:
    """Raises MemoryError once the backward pass would need more of the results of the block than the memory holds.

    Results are not changed. Linux alone says how much is free: elsewhere nothing is raised.
    """
    free, held = _free(), {}
    total = 0

    def keep(saved: Tensor) -> Tensor:
        nonlocal total
        storage = saved.untyped_storage()
        total += storage.nbytes() - held.get(storage.data_ptr(), 0)
        held[storage.data_ptr()] = storage.nbytes()
        if total > _SHARE * free:
            raise MemoryError(f"a step takes more than {_SHARE * free:.3g} bytes")
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        yield


def _free() -> float:
    """Bytes of memory and swap that this process may take or has: what it has freed may be kept for it."""
    if not all(source.exists() for source in _SOURCES):
        return math.inf
    lines = [line.split() for source in _SOURCES for line in source.read_text().splitlines()]
    return sum(int(line[1]) * 1024 for line in lines if line[:1] in (["MemAvailable:"], ["SwapFree:"], ["VmRSS:"]))
