"""Kills training runs at random moments and holds what they end with against a run that nothing disturbed.

    python benchmarks/kills.py                      # all layouts, 20 kills each
    python benchmarks/kills.py one --kills 5

Layouts: ``one`` process, killed with all its children; ``two`` processes of torchrun in fp16, with its scaler, killed
with it; ``members``: three processes with a member each, likewise; ``elastic``: one of three workers is killed, and
torchrun starts all again. Runs have data-loading processes, EMA, gradient accumulation and a checkpoint at every step.
Prints a line per layout; exit code 1 where any bit of the weights, the averaged weights, the momentum, the scaler or
metrics.jsonl differs.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

ROOT = Path(__file__).parents[1]
LAYOUTS = {  # processes, options, replicas
    "one": (1, [], 1),
    "two": (2, ["--train.precision=fp16", "--train.batch_norm=sync"], 2),
    "members": (3, ["--model.members=3", "--train.member_parallel=true"], 1),
    "elastic": (3, ["--train.batch_norm=sync"], 3),
}
IMAGES = 96
EPOCHS = 24


def write_data(path: Path) -> Path:
    """96 training and 48 evaluation images of three colours as PNG files in an .npz."""
    draw = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {"classes": np.array(["red", "green", "blue"])}
    for split, count in (("train", IMAGES), ("test", 48)):
        labels = np.arange(count) % 3
        images = draw.integers(0, 160, (count, 24, 24, 3), np.uint8)
        images[np.arange(count), ..., labels] += 90
        files = [cv2.imencode(".png", image[..., ::-1])[1].ravel() for image in images]
        arrays[f"{split}_bytes"], arrays[f"{split}_labels"] = np.concatenate(files), labels
        arrays[f"{split}_offsets"] = np.cumsum([0, *map(len, files)])
    np.savez(path, **arrays)
    return path


def start(layout: str, data: Path, output: Path, kills: int) -> subprocess.Popen[bytes]:
    """Starts, or continues, a run in a process group of its own; its output goes to a log beside its folder."""
    words = [str(ROOT / "tools/train_cls.py"), "--output", str(output), "--resume=auto", f"--data.root={data}"]
    words += ["--data.dataset=npz", "--data.image_size=24", "--model.backbone=resnet10_16", "--device=cpu"]
    words += [f"--train.epochs={EPOCHS}", "--train.batch_size=4", "--train.accumulate=2", "--train.save_every=1"]
    words += ["--train.ema_decay=0.99", "--train.workers=1", "--train.mixup=0.2", "--train.evaluate_every=2"]
    processes, own, _ = LAYOUTS[layout]
    words += own
    if processes > 1:
        options = ["--standalone", f"--nproc_per_node={processes}", f"--max_restarts={10 * kills}"]
        words = ["-m", "torch.distributed.run", *options, "--monitor_interval=0.1", *words]
    with open(output.with_suffix(".log"), "ab") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        streams = {"stdout": log, "stderr": log}
        return subprocess.Popen([sys.executable, *words], env=environment, start_new_session=True, **streams)


def workers(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that torchrun started."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def kill(layout: str, process: subprocess.Popen[bytes], draw: random.Random) -> bool:
    """Kills one worker or all processes; says whether there was one to kill."""
    several = LAYOUTS[layout][0] > 1
    alive = workers(process) if several else []
    if layout == "elastic":
        if not alive:
            return False
        alive = [draw.choice(alive)]
    for worker in alive:
        with contextlib.suppress(ProcessLookupError):  # it may have ended since it was listed
            (os.kill if layout == "elastic" else os.killpg)(worker, signal.SIGKILL)  # each has a session of its own
    if layout != "elastic":
        os.killpg(process.pid, signal.SIGKILL)  # not yet waited for, so its group exists
        process.wait()
    return True


def position(output: Path) -> tuple[int, int]:
    """Epochs and batches that last.pt holds; zeros where there is none."""
    path = output / "last.pt"
    if not path.exists():
        return 0, 0
    state = torch.load(path, weights_only=True)
    return state["epoch"], state["batch"]


def disturbed(
    layout: str, data: Path, output: Path, kills: int, length: float, draw: random.Random
) -> list[tuple[int, int, bool]]:
    """Kills a run ``kills`` times over its ``length`` in seconds.

    Returns for each kill the epochs and batches of last.pt after it, and whether a file was being written.
    """
    places: list[tuple[int, int, bool]] = []
    process = start(layout, data, output, kills)
    while len(places) < kills and process.poll() is None:
        before = position(output)
        # Some kills come while the process starts or reads the checkpoint, the others after a step
        patience = time.monotonic() + (draw.uniform(0, 10) if draw.random() < 0.2 else 120)
        while position(output) == before and process.poll() is None and time.monotonic() < patience:
            time.sleep(0.02)
        if places:  # the first kill comes in the first epoch, the others all over the run
            time.sleep(draw.uniform(0, length / kills))
        if process.poll() is not None:
            break
        if not kill(layout, process, draw):
            continue
        places.append((*position(output), any(output.glob(".*.tmp"))))
        if layout != "elastic":
            process = start(layout, data, output, kills)
    if process.wait():
        sys.exit(f"{layout}: exit code {process.returncode}, see {output.with_suffix('.log')}")
    return places


def differences(one: Path, other: Path) -> list[str]:
    """What of the two ends is not equal bit for bit."""
    first, second = (torch.load(folder / "last.pt", weights_only=True) for folder in (one, other))
    found = [
        f"{part}.{name}"
        for part in ("model", "trained", "optimizer")
        for name in first[part].keys() | second[part].keys()
        if not torch.equal(first[part].get(name, torch.empty(0)), second[part].get(name, torch.empty(0)))
    ]
    found += ["scaler"] * (first["scaler"] != second["scaler"])
    same = (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()
    return found if same else [*found, "metrics.jsonl"]


def main() -> None:
    """Runs the layouts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layouts", nargs="*", choices=[*LAYOUTS, []], help="default: all")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder) / "images.npz")
        for layout in arguments.layouts or LAYOUTS:
            whole, output = Path(folder) / f"{layout}-whole", Path(folder) / f"{layout}-killed"
            process = start(layout, data, whole, 0)
            while not (whole / "last.pt").exists() and process.poll() is None:
                time.sleep(0.02)
            began = time.monotonic()
            if process.wait():
                sys.exit(whole.with_suffix(".log").read_text())
            length = time.monotonic() - began
            places = disturbed(layout, data, output, arguments.kills, length, random.Random(arguments.seed))
            unequal = differences(whole, output)
            wrong += bool(unequal) or len(places) < arguments.kills
            end = "equal bit for bit" if not unequal else f"{len(unequal)} differ: {', '.join(unequal[:3])}"
            shown = " ".join(f"{epoch}:{batch}" for epoch, batch, _ in places)
            first, writing = sum(not epoch for epoch, _, _ in places), sum(written for *_, written in places)
            evaluating = sum(batch == IMAGES // (4 * LAYOUTS[layout][2]) for _, batch, _ in places)
            print(
                f"{layout}: {len(places)} kills ({first} in the first epoch, {evaluating} in evaluation, {writing} "
                f"while a file was written) at epoch:batch {shown}: {end}",
                flush=True,
            )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
