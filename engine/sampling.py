"""Which image comes when, and with which random numbers: a function of (seed, epoch, index) alone.

Nothing depends on the number of workers or on what ran before, so a run that was killed continues to the
same weights by starting its next epoch.
"""

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from engine.errors import UserError


def derived_seed(*keys: int | str) -> int:
    """An independent 63-bit seed for each tuple of numbers and names.

    Raises:
        UserError: for a negative number, which only a seed of the user's can be.
    """
    if any(isinstance(key, int) and key < 0 for key in keys):
        raise UserError("seed must be 0 or more")
    numbers = [zlib.crc32(key.encode()) if isinstance(key, str) else key for key in keys]
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields ``(epoch, index)`` in the shuffled order of the current ``epoch``, full batches only.

    The epoch travels with the index because the copies of a data set that persistent workers hold would not
    see it change. The last ``length % batch_size`` of an epoch's shuffle are left out; a data set smaller than
    one batch is repeated until it fills one.
    """

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return max(self.length // self.batch_size, 1) * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "order", self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        for position in range(len(self)):
            yield self.epoch, order[position % self.length]
