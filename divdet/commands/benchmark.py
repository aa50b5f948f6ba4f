"""The benchmark command: Table VIII and Fig. 5 of the paper for any backbone and S, on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import nn

from classification.backbones.cost import choose_image_size, default_dataset
from classification.backbones.registry import BACKBONES, find_dataset
from detection.heads import input_of
from detection.models.cost import foreground_classes
from detection.postprocess import fuse, head_boxes
from detection.prediction_settings import PostprocessSettings
from divdet.commands.benchmark_table import POSTPROCESSED, describe, draw
from divdet.commands.network_settings import Benchmark
from divdet.commands.timed_networks import TimedNetwork, device_title, difference, note_load, positive_numbers
from divdet.engine.concurrency import Graphs, concurrent, threads_of
from divdet.engine.devices import autocast, precision_dtype, resolve_precision, use_device
from divdet.engine.errors import UserError
from divdet.engine.files import make_folder, write_json
from divdet.engine.settings import Concurrency
from divdet.engine.timing import side_by_side


def print_benchmark(config: Benchmark) -> None:
    """Prints the table, or JSON, and writes them where ``output`` is given.

    Raises:
        UserError: for an unknown name, a division that the backbone's rule does not allow, a bad image size, or a mode
            of concurrency that this machine lacks.
    """
    device = use_device(config.device)
    note_load(device)
    sizes = _batch_sizes(config, device)
    if config.precision == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16: is for a GPU; on a CPU use float32 or bf16")
    torch.manual_seed(config.seed)
    single, divided = (_network(config, members).create(device) for members in (1, config.members))
    runners, missing = _runners(config, divided, device)
    folder = make_folder(config.output) if config.output else None  # before the time is spent
    rows = [row for size in sizes for row in _time(config, single, divided, runners, size, device)]
    found = {
        "task": config.task,
        "backbone": config.backbone,
        "members": config.members,
        "head": config.head if config.task == "det" else None,
        "image_size": _image_size(config),
        "precision": resolve_precision(config.precision, device),
        "device": device_title(device),
        "torch": torch.__version__,
        "rows": rows,
        "missing": missing,
    }
    print(json.dumps(found) if config.json else describe(found))
    if folder:
        write_json(found, folder / "benchmark.json")
        draw(found, folder / "benchmark.png")


def _batch_sizes(config: Benchmark, device: torch.device) -> list[int]:
    listed = config.batch_sizes or ("1,8,32,100" if device.type == "cuda" else "1,8")
    return positive_numbers(listed, "--batch_sizes", "numbers of images")


def _network(config: Benchmark, members: int) -> TimedNetwork:
    if not config.backbone:
        raise UserError(f"--backbone is missing: one of {', '.join(BACKBONES)}")
    size = _image_size(config)
    if config.task == "det":
        return TimedNetwork(config.backbone, members, foreground_classes(config.dataset), size, config.head)
    dataset = find_dataset(_dataset(config))
    return TimedNetwork(config.backbone, members, dataset.num_classes, size, form=dataset.form)


def _dataset(config: Benchmark) -> str:
    return config.dataset or default_dataset(config.backbone)


def _image_size(config: Benchmark) -> int:
    if config.task == "det":
        return input_of(config.head, config.image_size, "--image_size").size
    return choose_image_size(config.image_size, find_dataset(_dataset(config)))


def _runners(
    config: Benchmark, network: nn.Module, device: torch.device
) -> tuple[dict[str, Callable[..., Any]], dict[str, str]]:
    """What runs the members at once, by name, and why the other modes cannot."""
    runners, missing = {}, {}
    for how in get_args(Concurrency)[1:] if config.concurrency is None else (config.concurrency,):
        if how == "sequential":
            continue
        devices = config.devices if how == "devices" else None
        try:
            runners[how] = concurrent(network.branches(), how, devices, device)
        except UserError as error:
            if config.concurrency:
                raise
            missing[how] = str(error)
    if config.devices and "devices" not in runners:
        raise UserError(missing.get("devices", f"--devices {config.devices}: is for --concurrency devices"))
    return runners, missing


def _time(
    config: Benchmark,
    single: nn.Module,
    divided: nn.Module,
    runners: dict[str, Callable[..., Any]],
    size: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    """The rows of one batch size.

    Each has ``way``, ``batch_size``, ``milliseconds`` of a batch (median over the rounds), ``per_second`` (images),
    ``speedup`` (median over the rounds of the members' time in sequence by this way's: above 1 is faster) and
    ``difference`` (largest deviation from the outputs in sequence, by the largest output; None for the single network,
    which computes something else).
    """
    side = _image_size(config)
    images = torch.randn(size, 3, side, side, device=device).to(memory_format=torch.channels_last)
    dtype = precision_dtype(config.precision, device)
    settings = PostprocessSettings()

    def call(network: nn.Module, runner: Callable[..., Any] | None, boxes: bool = False) -> Any:
        network.concurrent = runner
        with torch.inference_mode(), autocast(dtype, device):
            outputs = network(images)
        if boxes:
            return fuse(head_boxes(network, *outputs, settings), settings)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return outputs

    calls: dict[str, tuple[nn.Module, Callable[..., Any] | None]] = {"single network": (single, None)}
    calls |= {"members in sequence": (divided, None)}
    if "graph" in runners:  # what a graph brings without anything running at once
        calls |= {"single network, graph": (single, Graphs(single.branches(), device, parallel=False))}
        calls |= {"members in sequence, graph": (divided, Graphs(divided.branches(), device, parallel=False))}
    calls |= {f"members at once, {how}": (divided, runner) for how, runner in runners.items()}
    # On a GPU TF32 and half precision differ by algorithm.
    limit = 1e-5 if device.type == "cpu" and dtype is None else 5e-2
    differences = {}
    for name, (network, runner) in calls.items():
        if network is divided:
            with threads_of(runner):
                wanted = call(divided, None)
            differences[name] = difference(name, call(network, runner), wanted, limit)
    rows = []
    for suffix, boxes in [("", False), (POSTPROCESSED, True)] if config.task == "det" else [("", False)]:
        ways = {name: lambda one=one, boxes=boxes: call(*one, boxes) for name, one in calls.items()}
        timings = side_by_side(ways, "members in sequence", config.rounds, config.seconds)
        rows += [
            {
                "way": timing.name + suffix,
                "batch_size": size,
                "milliseconds": timing.median,
                "per_second": 1000 * size / timing.median,
                "speedup": timing.ratio,
                "difference": differences.get(timing.name),
            }
            for timing in timings
        ]
    return rows
