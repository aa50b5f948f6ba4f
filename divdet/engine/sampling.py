"""The order of the training images and the seeds of their random numbers.

Both depend on (seed, epoch, index) alone, not on workers or on what ran before, so resumed runs reach the same weights.
"""

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from divdet.engine.errors import UserError


def derived_seed(*keys: int | str) -> int:
    """An independent 63-bit seed for each tuple of numbers and names; UserError for a negative (user's) seed."""
    if any(isinstance(key, int) and key < 0 for key in keys):
        raise UserError("seed must be 0 or more")
    numbers = [zlib.crc32(key.encode()) if isinstance(key, str) else key for key in keys]
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields ``(epoch, number)`` in the shuffled order of an epoch, full steps only.

    The epoch is part of the key because persistent workers hold copies of the data set, which would not see it change.
    A step has ``batch_size`` x ``replicas`` x ``accumulate`` images, the same ones however they are shared out.

    A data set smaller than one step is repeated until it fills one. ``number`` is the image's index plus ``length`` for
    each earlier repetition, so that each repetition has its own random numbers.

    Attributes:
        epoch: the epoch to yield.
        start: batches to skip when resuming mid-epoch.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, accumulate: int = 1, replica: int = 0, replicas: int = 1
    ) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.replica, self.replicas, self.accumulate = replica, replicas, accumulate
        self.batches = max(length // (batch_size * replicas * accumulate), 1) * accumulate
        self.epoch = self.start = 0
        self._known, self._shuffled = -1, []

    def __len__(self) -> int:
        return (self.batches - self.start) * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for batch in range(self.start, self.batches):
            yield from self.batch(batch)

    @property
    def layout(self) -> dict[str, int]:
        """What decides which images a step has."""
        images = self.batch_size * self.replicas
        return {"batches": self.batches, "batch_images": images, "accumulate": self.accumulate}

    def batch_after(self, done: int, layout: dict[str, int]) -> int:
        """The batch to continue with after ``done`` batches under an earlier ``layout``.

        With another layout, it is the first one after the last whole step that was done.
        """
        if layout == self.layout:
            return done
        if done >= layout["batches"]:
            return self.batches
        step = self.batch_size * self.replicas * self.accumulate
        return min(done * layout["batch_images"] // step * self.accumulate, self.batches)

    def batch(self, number: int) -> list[tuple[int, int]]:
        """This replica's part of a batch of the epoch."""
        first = (number * self.replicas + self.replica) * self.batch_size
        order, length = self._order(), self.length
        positions = range(first, first + self.batch_size)
        return [(self.epoch, order[position % length] + position // length * length) for position in positions]

    def images(self, batch: int) -> list[int]:
        """The indices of this replica's images in a batch of the epoch."""
        return [number % self.length for _, number in self.batch(batch)]

    def _order(self) -> list[int]:
        if self._known != self.epoch:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, "order", self.epoch))
            self._shuffled = torch.randperm(self.length, generator=generator).tolist()
            self._known = self.epoch
        return self._shuffled
