"""Start-up beside ``import torch`` alone: ``python benchmarks/startup.py [--rounds 5]``.

Each way is a new process; the ways take turns. Times are CPU seconds (user and system), medians; ratios are medians of
the rounds' own ratios.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np

from benchmarks.machine import describe, machine
from detection import create_ssd
from detection.settings import ModelSettings, TrainDetection
from divdet.engine.checkpoint import Checkpoint, save
from divdet.engine.cli import to_dict

TORCH = "import torch"
FLOORS = {"divdet train-det --help": 0.6, "import divdet": 0.1, "from detection import Detector": 1.3, "detect": 2.0}


def seconds(command: list[str]) -> float:
    """CPU seconds of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Prints the table; exits with 1 where a ratio is above its floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        model = create_ssd("resnet10_16", 2, 2)
        config = to_dict(TrainDetection(ModelSettings("resnet10_16", 2)))
        categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
        save(Checkpoint("detection", model.state_dict(), config, {"categories": categories}), Path(folder, "best.pt"))
        cv2.imwrite(f"{folder}/image.jpg", np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8))
        detect = ["detect", "--checkpoint", f"{folder}/best.pt", f"{folder}/image.jpg", "--output", f"{folder}/out"]
        ways = {TORCH: ["-c", TORCH]}
        ways |= {f"divdet {name} --help": ["-m", "divdet", name, "--help"] for name in ("train-det", "detect")}
        ways |= {code: ["-c", code] for code in ("import divdet", "from detection import Detector")}
        ways["detect"] = ["-m", "divdet", *detect, "--device", "cpu"]
        for way in ways.values():
            seconds([sys.executable, *way])  # compiles what is cached
        times = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                times[name].append(seconds([sys.executable, *way]))
    print(describe(machine()), "", sep="\n")
    print("| | CPU seconds | times `import torch` |", "|---|---|---|", sep="\n")
    ratios = {}
    for name, own in times.items():
        ratios[name] = statistics.median(a / b for a, b in zip(own, times[TORCH], strict=True))
        print(f"| `{name}` | {statistics.median(own):.2f} | {ratios[name]:.2f} |")
    sys.exit(any(ratios[name] > floor for name, floor in FLOORS.items()))


if __name__ == "__main__":
    main()
