"""Which image comes when, and with which random numbers: a function of (seed, epoch, index) alone.

Nothing depends on the number of workers or on what ran before, so a run that was killed continues to the
same weights by starting its next epoch.
"""

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from divdet.engine.errors import UserError


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
    """Yields ``(epoch, number)`` in the shuffled order of the current ``epoch``, full steps only.

    The epoch travels with the index because the copies of a data set that persistent workers hold would not
    see it change. A step takes ``batch_size`` x ``replicas`` x ``accumulate`` images, the same ones however they are
    shared out: each replica has its part of every batch. What an epoch's shuffle has beyond full steps is left out.

    A data set smaller than one step is repeated until it fills one. ``number`` is the image's index plus ``length`` for
    each earlier repetition, so that each draws its own random numbers; ``number % length`` is the image.

    Attributes:
        epoch: whose order comes next.
        start: batches of the epoch to pass over, those of a run that is continued inside it.
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
        """What says where the steps of an epoch lie."""
        images = self.batch_size * self.replicas
        return {"batches": self.batches, "batch_images": images, "accumulate": self.accumulate}

    def batch_after(self, done: int, layout: dict[str, int]) -> int:
        """The batch that a run goes on with which has ``done`` batches of an epoch under ``layout``.

        Where steps lie elsewhere now, it is the first one behind the last whole step that is among what was done.
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
