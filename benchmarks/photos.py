"""detect on 1,000 photos beside the network alone, in two processes, and killed on the way.

    python benchmarks/photos.py CHECKPOINT … --photos DIR    # any photos, repeated under other names
    python benchmarks/photos.py CHECKPOINT --photos DIR --kills

For each checkpoint: images a second of the network alone (inputs in memory, the same batches and threads), of detect
with pictures and without, and of two processes under torchrun with half the threads each; in turns, the median of
``--rounds``. Without the start of a process, which a run on few photos takes, too. ``--kills`` kills runs at random
and compares what --resume auto makes of them with an undisturbed run. Writes photos.json.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.floors import ROOT
from benchmarks.kills import kill
from benchmarks.machine import describe, machine
from detection import Detector

FEW, BATCH = 40, 8


def copies(source: Path, folder: Path, count: int) -> Path:
    """A folder of ``count`` photos."""
    if not folder.exists():
        photos = sorted(path for path in source.iterdir() if path.suffix == ".jpg")
        folder.mkdir(parents=True)
        for number in range(count):
            shutil.copy(photos[number % len(photos)], folder / f"{number:06d}.jpg")
    return folder


def words(checkpoint: str, photos: Path, output: Path, *more: str, processes: int = 1) -> list[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    own = ["--checkpoint", checkpoint, str(photos), "--output", str(output), f"--batch_size={BATCH}", "--device=cpu"]
    return [sys.executable, *torchrun, str(ROOT / "tools/detect.py"), *own, *more]


def seconds(command: list[str], output: Path, threads: int) -> float:
    shutil.rmtree(output, ignore_errors=True)
    began = time.perf_counter()
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, check=True, capture_output=True)
    return time.perf_counter() - began


def alone(checkpoint: str, count: int, threads: int, batch: int = BATCH) -> float:
    """Images a second of the network alone."""
    torch.set_num_threads(threads)
    detector = Detector.load(checkpoint, "cpu")
    size = detector.input.size
    inputs = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8)
    with torch.inference_mode():
        detector.network(inputs)
        began = time.perf_counter()
        for _ in range(count // batch):
            detector.network(inputs)
    return count // batch * batch / (time.perf_counter() - began)


def rates(checkpoint: str, many: Path, few: Path, output: Path, rounds: int, threads: int) -> dict[str, float]:
    """Images a second of each way."""
    count = len(list(many.iterdir()))
    ways = {"pictures": ([], 1), "no pictures": (["--no_pictures"], 1), "two processes": (["--no_pictures"], 2)}
    found: dict[str, list[float]] = {"network alone": [], **{way: [] for way in ways}}
    for _ in range(rounds):
        found["network alone"].append(alone(checkpoint, 240, threads))
        for way, (more, processes) in ways.items():
            times = [
                seconds(words(checkpoint, photos, output, *more, processes=processes), output, threads // processes)
                for photos in (few, many)
            ]
            found[way].append((count - FEW) / (times[1] - times[0]))
    return {way: statistics.median(values) for way, values in found.items()}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kills(checkpoint: str, photos: Path, output: Path, times: int) -> dict[str, int]:
    """How often killed runs, continued until they end, gave the files of an undisturbed run."""
    seconds(words(checkpoint, photos, output), output, 1)
    expected, same, killed, chance = content(output), 0, 0, random.Random(0)
    for attempt in range(times):
        shutil.rmtree(output)
        for start in range(100):
            processes = 1 + (attempt + start) % 2
            command = words(checkpoint, photos, output, "--resume=auto", processes=processes)
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(command, env=environment, start_new_session=True, **streams)
            try:
                process.wait(chance.uniform(4, 9) if start < 3 else None)
            except subprocess.TimeoutExpired:
                kill("two" if processes > 1 else "one", process, chance)
                killed += 1
            if process.wait() == 0:
                break
        same += content(output) == expected
    return {"runs": times, "kills": killed, "the same files": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, nargs="?", const=5, default=0, help="runs to kill (default 5)")
    parser.add_argument("--output", type=Path, default=Path("runs/photos"))
    options = parser.parse_args()
    output, threads = options.output.resolve(), os.cpu_count() or 1
    many, few = (copies(options.photos, output / f"{n}_photos", n) for n in (options.count, FEW))
    report = {"machine": machine(), "threads": threads, "rows": []}
    for checkpoint in options.checkpoints:
        row = {"checkpoint": checkpoint}
        if options.kills:
            row |= kills(checkpoint, many, output / "out", options.kills)
        else:
            row |= rates(checkpoint, many, few, output / "out", options.rounds, threads)
        print(row, flush=True)
        report["rows"].append(row)
    (output / "photos.json").write_text(json.dumps(report, indent=2))
    print(describe(report["machine"]))


if __name__ == "__main__":
    main()
