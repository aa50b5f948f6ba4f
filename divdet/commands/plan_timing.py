"""What the planner measures: each way to run each network, from its input to boxes or class scores."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from classification.ensemble import combine
from detection.postprocess import fuse, head_boxes
from detection.prediction_settings import PostprocessSettings, Runtime, RuntimeSettings
from detection.preprocess import Network
from detection.runtimes.backends import create_network
from detection.runtimes.running import runtime_device
from divdet.commands.network_settings import Plan
from divdet.commands.timed_networks import TimedNetwork, difference
from divdet.engine.concurrency import concurrent
from divdet.engine.devices import autocast, precision_dtype
from divdet.engine.errors import UserError
from divdet.engine.progress import progress
from divdet.engine.settings import Concurrency
from divdet.engine.timing import Timing, side_by_side

Call = Callable[[Tensor], Any]  # images -> raw outputs, and then what a user gets
_TOGETHER = 300e6  # parameters: 1.2 GB in each runtime


@dataclass(frozen=True)
class Way:
    """How a network is run."""

    runtime: Runtime = "torch"
    concurrency: Concurrency = "sequential"

    def __str__(self) -> str:
        return self.runtime if self.concurrency == "sequential" else f"{self.runtime}, {self.concurrency}"


@dataclass(frozen=True)
class Timed:
    """Times of a network run in a way: of one image, and of a batch."""

    way: Way
    single: Timing
    batch: Timing


class Timer:
    """Times all networks in turns, in every way that this machine has, so that a change of its speed affects all alike.

    Networks stay in memory meanwhile; where they are more than ``_TOGETHER``, groups of them follow one another.

    Args:
        config: with a ``batch_size``.
        runtimes: of detectors.
        device: where to run.

    Attributes:
        missing: the networks that were not timed in a way, by the reason.
        speeds: milliseconds of the first way of the first network, which every group times, round by round: what the
            machine's speed did.
    """

    def __init__(self, config: Plan, runtimes: Sequence[Runtime], device: torch.device) -> None:
        self.config, self.runtimes, self.device = config, runtimes, device
        self.missing: dict[str, list[str]] = {}
        self.speeds: list[float] = []
        self._spreads: list[float] = []
        self._reference: Callable[[], Any] | None = None

    @property
    def drift(self) -> float:
        """By which factor quartiles differ: of ``speeds``, or of the ways' own times in the middle of all ways."""
        low, _, high = statistics.quantiles(self.speeds, n=4, method="inclusive")
        return max(high / low, statistics.median(self._spreads))

    def time(self, networks: Mapping[TimedNetwork, int]) -> dict[TimedNetwork, list[Timed]]:
        """The times of networks, given with their parameters, by network; why ways are missing is in ``missing``.

        Raises:
            UserError: where a way's outputs differ from those of the first one.
        """
        groups: list[list[TimedNetwork]] = []
        room = 0
        for network, params in networks.items():
            if params > room:
                groups.append([])
                room = _TOGETHER
            groups[-1].append(network)
            room -= params
        return {network: timed for group in groups for network, timed in self._group(group).items()}

    def _group(self, networks: Sequence[TimedNetwork]) -> dict[TimedNetwork, list[Timed]]:
        ways: dict[TimedNetwork, list[Way]] = {}
        singles, batches = {}, {}
        for network in progress(networks, "preparing", "network"):
            model = network.create(self.device)
            runs, finish = self._detector(network, model) if network.head else self._classifier(model)
            ways[network] = list(runs)
            for calls, size in ((singles, 1), (batches, self.config.batch_size)):
                images = self._images(network, size)
                self._check(network.title, runs, images)
                calls |= {(network, way): partial(_call, run, finish, images) for way, run in runs.items()}
        if not singles:
            return {}
        first = next(iter(singles))
        self._reference = self._reference or singles[first]
        timings = []
        for calls in ({None: self._reference, **singles}, batches):
            turns = side_by_side(calls, next(iter(calls)), self.config.rounds, self.config.seconds, "timing")
            timings.append({timing.name: timing for timing in turns})
        self.speeds += timings[0][None].milliseconds
        for low, high in (timing.quartiles for timing in timings[0].values()):
            self._spreads.append(high / low)
        return {
            network: [Timed(way, *(timing[network, way] for timing in timings)) for way in own]
            for network, own in ways.items()
        }

    @torch.inference_mode()
    def _check(self, title: str, runs: Mapping[Way, Call], images: Tensor) -> None:
        limit = 1e-3 if self.device.type == "cpu" and self.config.precision == "float32" else 5e-2
        wanted = None
        for way, run in runs.items():
            outputs = run(images)
            wanted = outputs if wanted is None else wanted
            difference(f"{title}, {way}", outputs, wanted, limit)

    def _images(self, network: TimedNetwork, size: int) -> Tensor:
        side = network.image_size
        if network.head:
            return torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8, device=self.device)
        return torch.randn(size, 3, side, side, device=self.device).to(memory_format=torch.channels_last)

    def _ways(self, members: int, runtimes: Sequence[Runtime]) -> list[Way]:
        """One after the other in each runtime; in torch also at once, as the device allows."""
        at_once: list[Concurrency] = ["threads"]
        if self.device.type == "cuda":
            at_once = ["streams", "graph", *(["devices"] if torch.cuda.device_count() > 1 else [])]
        own = [Way("torch", how) for how in at_once] if members > 1 and "torch" in runtimes else []
        return [Way(runtime) for runtime in runtimes] + own

    def _detector(self, network: TimedNetwork, model: nn.Module) -> tuple[dict[Way, Network], Call]:
        """As ``Detector.predict`` runs it."""
        runs = {}
        for way in self._ways(len(model.members), self.runtimes):
            try:
                precision = self.config.precision
                settings = RuntimeSettings(runtime=way.runtime, precision=precision, concurrency=way.concurrency)
                runtime_device(settings, str(self.device))
                runs[way] = create_network(model, settings, self.device)
            except UserError as error:
                self.missing.setdefault(str(error), []).append(network.title)
        settings = PostprocessSettings()
        return runs, lambda outputs: fuse(head_boxes(model, *outputs, settings), settings)

    def _classifier(self, model: nn.Module) -> tuple[dict[Way, Call], Call]:
        """As ``divdet eval-cls`` runs it."""
        dtype = precision_dtype(self.config.precision, self.device)

        def run(runner: Any, images: Tensor) -> Tensor:
            model.concurrent = runner
            with autocast(dtype, self.device):
                return model(images)

        runs = {}
        for way in self._ways(len(model.members), ["torch"]):
            runs[way] = partial(run, concurrent(model.branches(), way.concurrency, None, self.device))

        def finish(logits: Tensor) -> None:
            combine(logits)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

        return runs, finish


def _call(run: Call, finish: Call, images: Tensor) -> None:
    with torch.inference_mode():
        finish(run(images))
