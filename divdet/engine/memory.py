"""Ends a training step that the memory cannot hold, before the system kills the process without a word."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from divdet.engine.limits import available_memory, own_memory

_SHARE = 0.9  # of that memory: gradients and what operations work with come on top


@contextmanager
def within_memory(free: float) -> Iterator[None]:
    """Raises MemoryError once the backward pass would need more of the results of the block than ``free`` bytes hold.

    Results are not changed.
    """
    held: dict[int, int] = {}
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


def free_memory() -> float:
    """Bytes that this process may take, of what torchrun's processes here share, or has: some may be freed and kept."""
    sharing = int(os.environ["LOCAL_WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1
    return available_memory() / sharing + own_memory()
