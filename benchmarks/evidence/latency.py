"""Times the networks of the result files, whole and divided, side by side; writes latency.json beside the results.

    python -m benchmarks.evidence.latency cpu     # on a quiet machine; after benchmarks.evidence.run

Random weights: a network's time does not depend on them. Batches of 1 and of 8 (32 on a GPU); the members in sequence,
and at once by threads on a CPU or as parallel branches of a CUDA graph on a GPU, beside graphs without such branches.
Post-processing is not in it.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.evidence.figures import LATENCY_KEYS
from benchmarks.machine import machine
from detection.data.coco_json import read_json
from divdet.commands.timed_networks import TimedNetwork
from divdet.engine.cli import run
from divdet.engine.concurrency import Graphs, concurrent
from divdet.engine.devices import autocast, precision_dtype, resolve_device
from divdet.engine.files import write_atomically
from divdet.engine.settings import Precision
from divdet.engine.timing import side_by_side
from divdet.engine.tuning import keep_freed_memory

HERE = Path(__file__).parent


def networks(folder: Path) -> dict[TimedNetwork, list[int]]:
    """What the result files are of, as networks of S=1, with their numbers of members."""
    found: dict[TimedNetwork, set[int]] = {}
    for path in sorted(folder.glob("*-*.json")):
        result = read_json(path)
        backbone, classes, size, stem = (result["cost"][key] for key in LATENCY_KEYS[1:5])
        head = "ssd300" if result["task"] == "det" else None
        network = TimedNetwork(backbone, 1, classes, size, head, stem)
        found.setdefault(network, set()).add(result["members"])
    return {network: sorted(members) for network, members in found.items()}


def facts(network: TimedNetwork) -> dict[str, Any]:
    """The first of ``LATENCY_KEYS``."""
    values = (network.task, network.backbone, network.classes, network.image_size, network.form)
    return dict(zip(LATENCY_KEYS[:5], values, strict=True))


def time_network(
    network: TimedNetwork, divisions: list[int], size: int, rounds: int, precision: Precision
) -> list[dict[str, Any]]:
    """Milliseconds of a batch for each S, in sequence and at once, timed in turn."""
    device = resolve_device("auto")
    images = torch.randn(size, 3, network.image_size, network.image_size, device=device)
    images = images.to(memory_format=torch.channels_last)
    at_once = "graph" if device.type == "cuda" else "threads"
    ways: dict[tuple[int, str], Any] = {}

    def call(model: nn.Module, runner: Any) -> None:
        model.concurrent = runner
        with torch.inference_mode(), autocast(precision_dtype(precision, device), device):
            model(images)
        if device.type == "cuda":
            torch.cuda.synchronize()

    for members in divisions:
        model = replace(network, members=members).create(device)
        ways[members, "sequential"] = partial(call, model, None)
        if device.type == "cuda":
            ways[members, "graph, sequential"] = partial(call, model, Graphs(model.branches(), device, parallel=False))
        if members > 1:
            ways[members, at_once] = partial(call, model, concurrent(model.branches(), at_once, None, device))
    named = {f"{members} {how}": way for (members, how), way in ways.items()}
    timings = side_by_side(named, next(iter(named)), rounds)
    return [
        {
            "members": members,
            "how": how,
            "batch_size": size,
            "milliseconds": timing.median,
            "quartiles": timing.quartiles,
        }
        for (members, how), timing in zip(ways, timings, strict=True)
    ]


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", choices=["cpu", "gpu"])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    gpu = torch.cuda.is_available()
    if gpu != (arguments.protocol == "gpu"):
        parser.error(f"this machine has {'a' if gpu else 'no'} GPU: hide or find it by CUDA_VISIBLE_DEVICES")
    folder = arguments.results / arguments.protocol
    if not (found := networks(folder)):
        parser.error(f"{folder} has no results yet: python -m benchmarks.evidence.run {arguments.protocol}")
    keep_freed_memory()
    lines = [
        facts(network) | line
        for network, divisions in found.items()
        for size in (1, 32 if gpu else 8)
        for line in time_network(network, divisions, size, arguments.rounds, "bf16" if gpu else "float32")
    ]
    text = ",\n".join(map(json.dumps, lines))
    head = f'{{"machine": {json.dumps(machine())}, "rounds": {arguments.rounds}, "lines": [\n'
    write_atomically(folder / "latency.json", lambda file: file.write_text(f"{head}{text}\n]}}\n"))


if __name__ == "__main__":
    run(main)
