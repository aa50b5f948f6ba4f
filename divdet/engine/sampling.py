"""The order of the training images and the seeds of their random numbers.

Both depend on (seed, epoch, index) alone, not on workers or on what ran before, so resumed runs reach the same weights.
"""

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler


def derived_seed(*keys: int | str) -> int:
    """An independent 63-bit seed for each tuple of names and of numbers from 0."""
    numbers = [zlib.crc32(key.encode()) if isinstance(key, str) else key for key in keys]
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields ``(epoch, number)`` in the shuffled order of an epoch, full steps only.

    The epoch is part of the key because persistent workers hold copies of the data set, which would not see it change.
    A step has ``batch_size`` x ``replicas`` x ``accumulate`` images, the same ones however they are shared out.

    A data set smaller than one step is repeated until it fills one. ``number`` is the image's index plus ``length`` for
    each earlier repetition, so that each repetition has its own random numbers.

    Args:
        repeats: [length], how often each image occurs in an epoch, on average; each epoch draws how the fractions are
            rounded. None: once each.

    Attributes:
        epoch: the epoch to yield.
        start: batches to skip when resuming mid-epoch.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        accumulate: int = 1,
        replica: int = 0,
        replicas: int = 1,
        repeats: Sequence[float] | None = None,
    ) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.replica, self.replicas, self.accumulate = replica, replicas, accumulate
        self.repeats = None if repeats is None else np.asarray(repeats, np.float64)
        images = epoch_length(length, repeats)
        self.batches = max(images // (batch_size * replicas * accumulate), 1) * accumulate
        self.epoch = self.start = 0
        self._known, self._shuffled, self._beyond = -1, [], length

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
        order = self._order()
        rounds = [divmod(position, len(order)) for position in range(first, first + self.batch_size)]
        return [(self.epoch, order[place] + again * self._beyond) for again, place in rounds]

    def images(self, batch: int) -> list[int]:
        """The indices of this replica's images in a batch of the epoch."""
        return [number % self.length for _, number in self.batch(batch)]

    def _order(self) -> list[int]:
        if self._known != self.epoch:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, "order", self.epoch))
            numbers = np.arange(self.length) if self.repeats is None else self._repeated()
            order = torch.randperm(len(numbers), generator=generator).numpy()
            self._shuffled = numbers[order].tolist()
            self._beyond = (int(numbers.max()) // self.length + 1) * self.length  # where a second round begins
            self._known = self.epoch
        return self._shuffled

    def _repeated(self) -> np.ndarray:
        """The numbers of an epoch, ascending by image.

        Images lie along a line, each as long as its share of the epoch; one lattice of unit steps, shifted at random,
        picks each of them its length rounded down or up.
        """
        total = epoch_length(self.length, self.repeats)
        ends = np.cumsum(self.repeats) * (total / self.repeats.sum())
        shift = np.random.default_rng(derived_seed(self.seed, "repeats", self.epoch)).random()
        images = np.searchsorted(ends, np.arange(total) + shift, side="right").clip(max=self.length - 1)
        starts = np.searchsorted(images, images)  # the first place of the same image
        return images + (np.arange(total) - starts) * self.length


def epoch_length(length: int, repeats: Sequence[float] | None) -> int:
    """The images of an epoch (see ``EpochSampler``)."""
    return length if repeats is None else max(round(float(np.sum(repeats))), 1)
