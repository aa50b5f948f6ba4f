"""Compares the speed of several ways to do the same work, timed in turns so that a machine's drift affects all."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from divdet.engine.progress import progress


@dataclass(frozen=True)
class Timing:
    """One way's times.

    Attributes:
        name: what was timed.
        milliseconds: of one call, for each round.
        ratio: median over the rounds of the reference's time divided by this way's: above 1 is faster.
    """

    name: Hashable
    milliseconds: list[float]
    ratio: float

    @property
    def median(self) -> float:
        """Milliseconds of one call."""
        return statistics.median(self.milliseconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third, in milliseconds of one call."""
        low, _, high = statistics.quantiles(self.milliseconds, n=4, method="inclusive")
        return low, high


def side_by_side(
    ways: Mapping[Hashable, Callable[[], object]],
    reference: Hashable,
    rounds: int = 15,
    seconds: float = 0.2,
    description: str | None = None,
) -> list[Timing]:
    """Times every way once per round, after warm-up calls.

    Args:
        ways: functions by name; each call does the same work, which the caller has checked.
        reference: name of the way that ratios refer to.
        seconds: about how long one way is called per round; at least one call.
        description: of a progress bar; none without it.
    """
    calls: dict[Hashable, int] = {}
    for name, way in ways.items():
        way()
        began = time.perf_counter()
        way()
        calls[name] = max(1, round(seconds / max(time.perf_counter() - began, 1e-9)))
    times: dict[Hashable, list[float]] = {name: [] for name in ways}
    for _ in progress(range(rounds), description, "round") if description else range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            for _ in range(calls[name]):
                way()
            times[name].append(1000 * (time.perf_counter() - began) / calls[name])
    return [
        Timing(name, own, statistics.median(r / o for r, o in zip(times[reference], own, strict=True)))
        for name, own in times.items()
    ]
