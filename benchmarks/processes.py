"""Several processes against one: the losses of 20 steps, the messages of a step, and the memory of a process.

    python -m benchmarks.processes                  # everything, half an hour on two cores
    python -m benchmarks.processes equality

``equality`` trains both tasks with S = 2 and 4, in one process and in data and member parallelism, and prints how far
apart the losses of the same step are at most, in float64 and in float32; exit code 1 where that is more than the
tolerance. ``cost`` counts, for one training step, the collective operations of the first process and their numbers of
bytes, and takes how far each process's resident memory rises in the first step, above the network's weights.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

import classification.training
import detection.training.train
from classification.settings import TrainClassification
from detection.data.synthetic import generate
from detection.settings import TrainDetection
from divdet.engine.cli import parse
from divdet.engine.loop import _Training
from divdet.engine.stopping import Stopping
from tests.classification.generated import write_npz
from tests.processes import ROOT, column, run

STEPS = 20
TASKS = {
    "train_cls": (TrainClassification, classification.training.train),
    "train_det": (TrainDetection, detection.training.train.train),
}
LOSSES = ("train_loss", "train_ce", "train_cot", "train_localization", "train_classification")
COMMON = ["--device=cpu", "--train.workers=0", "--train.precision=float32"]


def data(folder: Path, images: int = 8) -> dict[str, list[str]]:
    """Generated images for each task, as the command line's words."""
    pictures = write_npz(folder / "images.npz", train=images, test=8)
    generate(folder / "shapes", 8, 4, seed=0)
    words = {"train_cls": [f"--data.dataset=npz --data.root={pictures} --data.image_size=16"], "train_det": []}
    for split in ("train", "val"):
        words["train_det"].append(f"--data.{split}_images={folder / 'shapes/images' / split}")
        words["train_det"].append(f"--data.{split}_annotations={folder / f'shapes/annotations/instances_{split}.json'}")
    return {task: " ".join(part).split() for task, part in words.items()}


def deviations(one: Path, many: Path) -> tuple[float, float]:
    """The largest relative difference of a step's loss, and that of its parts."""
    names = [name for name in LOSSES if f'"{name}"' in (one / "metrics.jsonl").read_text()]
    pairs = [(np.array(column(one, name)), np.array(column(many, name))) for name in names]
    found = [float((np.abs(many - one) / np.maximum(np.abs(one), 1e-2)).max()) for one, many in pairs]
    return found[0], max(found[1:])


def layouts(members: int) -> Iterator[tuple[str, int, list[str], float]]:
    """Name, number of processes, options and float32's tolerance of each layout of a batch of 8 images.

    Replicas sum the statistics of batch norms in another order than one process.
    """
    halves = ["--train.batch_size=4", "--train.batch_norm=sync"]
    yield "2 replicas of all members", 2, halves, 1e-4
    yield f"{members} members apart", members, ["--train.member_parallel=true"], 1e-5
    yield f"2 replicas x {members} members", 2 * members, [*halves, "--train.member_parallel=true"], 1e-4


def equality(folder: Path) -> bool:
    """Prints a line per layout; whether all are within their tolerance."""
    words, right = data(folder), True
    for tool, rate in (("train_cls", 0.003), ("train_det", 1e-4)):
        for members, double in product((2, 4), (True, False)):
            recipe = [*words[tool], "--model.backbone=resnet10_16", f"--model.members={members}", f"--train.lr={rate}"]
            recipe += [f"--train.epochs={STEPS}", "--train.batch_size=8", f"--train.evaluate_every={STEPS}", *COMMON]
            kind = "float64" if double else "float32"
            one, many = folder / f"{tool}{members}{kind}-one", folder / f"{tool}{members}{kind}-many"
            run(f"{tool}.py", *recipe, f"--output={one}", double=double)
            losses = column(one, "train_loss")
            print(
                f"{tool}, S={members}, {kind}: {STEPS} steps in one process: loss {losses[0]:.4f} to {losses[-1]:.4f}"
            )
            for name, processes, options, tolerance in layouts(members):
                run(f"{tool}.py", *recipe, *options, f"--output={many}", processes=processes, double=double)
                (apart, parts), tolerance = deviations(one, many), 1e-9 if double else tolerance
                right &= apart <= tolerance
                print(f"  {name}: loss {apart:.1e} apart at most (tolerance {tolerance:.0e}), its parts {parts:.1e}")
                sys.stdout.flush()
                shutil.rmtree(many)
    return right


def cost(folder: Path) -> None:
    """Prints a line per layout."""
    words = data(folder, images=64)
    words["train_cls"].append("--data.image_size=32")
    for tool, backbone, batch in (("train_cls", "wrn16_8", 64), ("train_det", "resnet50", 8)):
        for members in (2, 4):
            recipe = [*words[tool], *COMMON, f"--model.backbone={backbone}", f"--model.members={members}"]
            recipe += ["--train.lr=1e-5", "--train.epochs=2", f"--train.batch_size={batch}"]
            for name, processes, options in (
                ("one process", 1, []),
                ("data parallel", 2, [f"--train.batch_size={batch // 2}"]),
                ("member parallel", members, ["--train.member_parallel=true"]),
            ):
                output = folder / f"{tool}{members}-{name}"
                worker = [ROOT / "benchmarks/processes.py", "worker", tool, f"--output={output}"]
                run(*worker, *recipe, *options, processes=processes)
                ranks = [json.loads(path.read_text()) for path in sorted(output.glob("rank*.json"))]
                memory = ", ".join(str(rank["memory"]) for rank in ranks)
                state = ", ".join(f"{rank['parameters'] / 1e6:.2f}" for rank in ranks)
                messages = "; ".join(f"{n} x {kind}, {numbers} numbers" for kind, n, numbers in ranks[0]["messages"])
                what = f"{tool} {backbone} S={members}, {name}, {batch} images"
                print(f"{what}: {state} M parameters; {memory} MiB; {messages}", flush=True)


def resident(which: str) -> int:
    """This process's memory in MiB: VmRSS now, VmHWM at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) // 1024


def worker(tool: str, words: list[str]) -> None:
    """A process of a run of two steps; writes what it measured to rank<N>.json in the run's folder."""
    train_epoch, found = _Training.train_epoch, {}

    def measured(training: _Training, stopping: Stopping) -> None:
        if training.epoch == 0:
            before = resident("VmRSS")
            train_epoch(training, stopping)
            found["memory"] = resident("VmHWM") - before
            found["parameters"] = sum(p.numel() for p in training.model.parameters())
            return
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            train_epoch(training, stopping)
        counts, numbers = Counter(), Counter()
        for event in profiler.events():
            if event.name.startswith("gloo:"):
                counts[event.name] += 1
                numbers[event.name] += sum(int(np.prod(shape)) for shape in event.input_shapes if shape)
        found["messages"] = [(name.removeprefix("gloo:"), counts[name], numbers[name]) for name in sorted(counts)]

    config: Any = parse(TASKS[tool][0], words)
    with patch.object(_Training, "train_epoch", measured):
        TASKS[tool][1](config)
    (Path(config.output) / f"rank{os.environ.get('RANK', 0)}.json").write_text(json.dumps(found))


def main() -> None:
    """Runs what was asked for."""
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["equality", "cost", []], help="default: both")
    parts = parser.parse_args().parts or ["equality", "cost"]
    right = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "equality" in parts:
            right = equality(folder)
        if "cost" in parts:
            cost(folder)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
