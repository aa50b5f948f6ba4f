"""What the planner measures: each way to run each network, from its input to boxes or class scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from divdet.engine.settings import Concurrency
from divdet.engine.timing import Timing, side_by_side

Call = Callable[[Tensor], Any]  # images -> raw outputs, and then what a user gets
_REFERENCE = "reference"


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
    """Times networks one after the other, and a reference beside each: the first way of the first network.

    Args:
        config: with a ``batch_size``.
        runtimes: of detectors.
        device: where to run.

    Attributes:
        missing: the networks that were not timed in a way, by the reason.
        reference: milliseconds of the reference, for each network: what the machine's speed did meanwhile.
    """

    def __init__(self, config: Plan, runtimes: Sequence[Runtime], device: torch.device) -> None:
        self.config, self.runtimes, self.device = config, runtimes, device
        self.missing: dict[str, list[str]] = {}
        self.reference: list[float] = []
        self._call: Callable[[], Any] | None = None

    def time(self, network: TimedNetwork) -> list[Timed]:
        """The times of all ways that this machine has; why others are missing is in ``missing``.

        Raises:
            UserError: where a way's outputs differ from those of the first one.
        """
        model = network.create(self.device)
        runs, finish = self._detector(network, model) if network.head else self._classifier(model)
        if not runs:
            return []
        found: list[dict[str, Timing]] = []
        for size in (1, self.config.batch_size):
            images = self._images(network, size)
            with torch.inference_mode():
                wanted = None
                for way, run in runs.items():
                    outputs = run(images)
                    wanted = outputs if wanted is None else wanted
                    limit = 1e-3 if self.device.type == "cpu" and self.config.precision == "float32" else 5e-2
                    difference(str(way), outputs, wanted, limit)
            calls = {str(way): partial(_call, run, finish, images) for way, run in runs.items()}
            if size == 1:
                self._call = self._call or next(iter(calls.values()))
                calls[_REFERENCE] = self._call
            timings = side_by_side(calls, next(iter(calls)), self.config.rounds, self.config.seconds)
            found.append({timing.name: timing for timing in timings})
        self.reference.append(found[0][_REFERENCE].median)
        return [Timed(way, *(timings[str(way)] for timings in found)) for way in runs]

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
