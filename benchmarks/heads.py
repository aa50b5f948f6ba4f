"""Which head: the heads with S=1 and S=2 on the same backbones, in the same processor time.

    python benchmarks/heads.py                       # all: 36 runs, 100 minutes on two cores; needs divdet[lite]
    python benchmarks/heads.py bccd --seeds 0        # one data set, one seed
    python benchmarks/heads.py --table               # the table of the runs that are done

bccd: 205 photos of blood cells and resnet10_24, from scratch, by configs/det/bccd.yaml. Persons: 800 photos of
coco_subset (see transfer.py), by configs/det/photos.yaml, EfficientNet-Lite0 (S=1) or Lite0 and Lite1 (S=2) from pip's
weights. Each run has about the same time on one core, two run at once; a run that is done is not repeated. Data in
../shared or $DIVDET_SHARED. Writes heads.json; latency is from JPEG file to boxes on one thread.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.floors import ROOT, last_epoch
from benchmarks.machine import describe, machine
from benchmarks.transfer import LITE0, LITE0_1, data_arguments
from detection import Detector
from detection.models.cost import summarize
from divdet.engine.timing import side_by_side

BACKBONES = {("bccd", 1): "resnet10_24", ("bccd", 2): "resnet10_24", ("persons", 1): LITE0, ("persons", 2): LITE0_1}
RECIPES = {"bccd": "bccd", "persons": "photos"}
SIZES = {"ssd300": 300, "ssdlite": 320, "fcos": 320}
CLASSES = {"bccd": 3, "persons": 1}


class Setting(NamedTuple):
    """A row of the table; epochs are what three minutes (bccd) or seven and a half (persons) of one core hold."""

    data: str
    head: str
    members: int
    epochs: int
    lr: float

    @property
    def name(self) -> str:
        return f"{self.data}_{self.head}_s{self.members}"


# Rates: of 0.02 and 0.06 on bccd, of 0.004, 0.012 and 0.03 on the persons, the best after a third of the epochs.
SETTINGS = [
    Setting("bccd", "ssd300", 1, 19, 0.02),
    Setting("bccd", "ssd300", 2, 17, 0.02),
    Setting("bccd", "ssdlite", 1, 22, 0.06),
    Setting("bccd", "ssdlite", 2, 21, 0.06),
    Setting("bccd", "fcos", 1, 16, 0.06),
    Setting("bccd", "fcos", 2, 13, 0.06),
    Setting("persons", "ssd300", 1, 9, 0.004),
    Setting("persons", "ssd300", 2, 4, 0.004),
    Setting("persons", "ssdlite", 1, 8, 0.004),
    Setting("persons", "ssdlite", 2, 4, 0.004),
    Setting("persons", "fcos", 1, 6, 0.012),
    Setting("persons", "fcos", 2, 3, 0.012),
]


def train(setting: Setting, seed: int, data: list[str], output: Path) -> None:
    """Trains and evaluates on one thread, unless that is done; writes the processor minutes beside the run."""
    folder = output / f"{setting.name}_seed{seed}"
    if (folder / "minutes.json").exists():
        return
    words = [f"--config=configs/det/{RECIPES[setting.data]}.yaml", f"--output={folder}", f"--seed={seed}"]
    words += [f"--model.head={setting.head}", f"--model.input_size={SIZES[setting.head]}"]
    words += [f"--model.backbone={BACKBONES[setting.data, setting.members]}", f"--model.members={setting.members}"]
    words += [f"--train.epochs={setting.epochs}", f"--train.lr={setting.lr}", "--train.min_steps=0", "--resume=auto"]
    words += [f"--train.evaluate_every={setting.epochs}", *data]
    command = [sys.executable, str(ROOT / "tools/train_det.py"), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}\n{text[-2000:]}")
    minutes = {"wall": (time.perf_counter() - began) / 60, "processor": (usage.ru_utime + usage.ru_stime) / 60}
    (folder / "minutes.json").write_text(json.dumps(minutes))
    print(f"{folder.name}: AP {last_epoch(folder)['AP']:.3f}, {minutes['processor']:.1f} min", flush=True)


def latencies(rows: list[dict[str, Any]], shared: Path, output: Path) -> None:
    """Adds ``milliseconds`` to each row: one image, from file to boxes, on one thread, all detectors in turns."""
    torch.set_num_threads(1)
    photos = sorted((shared / "data/coco_subset/images").glob("*.jpg"))[:20]
    detectors = {row["name"]: Detector.load(output / f"{row['name']}_seed{row['seeds'][0]}/best.pt") for row in rows}
    ways = {name: lambda own=detector: [own(str(photo)) for photo in photos] for name, detector in detectors.items()}
    timings = side_by_side(ways, rows[0]["name"], rounds=7)
    for row, timing in zip(rows, timings, strict=True):
        row["milliseconds"] = timing.median / len(photos)


def table(seeds: list[int], shared: Path, output: Path) -> None:
    """Prints the rows of the runs that are done, and writes heads.json."""
    rows = []
    for setting in SETTINGS:
        folders = {seed: output / f"{setting.name}_seed{seed}" for seed in seeds}
        done = {seed: last_epoch(folder) for seed, folder in folders.items() if (folder / "minutes.json").exists()}
        if not done:
            continue
        backbone = BACKBONES[setting.data, setting.members]
        cost = summarize(backbone, setting.members, CLASSES[setting.data], setting.head, SIZES[setting.head])
        minutes = [json.loads((folders[seed] / "minutes.json").read_text())["processor"] for seed in done]
        found = {key: [line[key] for line in done.values()] for key in ("AP", "AP50", "APs", "APm", "APl")}
        costs = {"params": cost["params"], "gflops": cost["gflops"], "minutes": statistics.mean(minutes)}
        rows.append({"name": setting.name, **setting._asdict(), "seeds": list(done)} | costs | found)
    latencies(rows, shared, output)
    (output / "heads.json").write_text(json.dumps({"machine": machine("timm"), "rows": rows}, indent=2))
    print(describe(machine("timm")))
    print("\n| data | head | S | epochs | minutes | AP | AP50 | small | medium | large | params, M | GFLOPs | ms |")
    print("|---" * 13 + "|")
    for row in rows:
        aps = row["AP"]
        spread = f" ± {statistics.stdev(aps):.3f}" if len(aps) > 1 else ""
        means = [f"{statistics.mean(row[key]):.3f}" for key in ("AP50", "APs", "APm", "APl")]
        costs = [f"{row['params'] / 1e6:.2f}", f"{row['gflops']:.2f}", f"{row['milliseconds']:.1f}"]
        first = [row["data"], row["head"], str(row["members"]), str(row["epochs"]), f"{row['minutes']:.1f}"]
        print("| " + " | ".join([*first, f"{statistics.mean(aps):.3f}{spread}", *means, *costs]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", default=list(RECIPES), help=", ".join(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/heads"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--table", action="store_true", help="print the table alone")
    arguments = parser.parse_args()
    if unknown := set(arguments.data) - set(RECIPES):
        parser.error(f"no such data: {', '.join(sorted(unknown))}; there are {', '.join(RECIPES)}")
    output = arguments.output.resolve()
    shared = Path(os.environ.get("DIVDET_SHARED", ROOT.parent / "shared")).resolve()
    if not arguments.table:
        output.mkdir(parents=True, exist_ok=True)
        rows = [setting for setting in SETTINGS if setting.data in arguments.data]
        with ThreadPoolExecutor(arguments.jobs) as executor:
            data = {name: data_arguments(name, shared, output) for name in arguments.data}
            turns = [(row, seed) for seed in arguments.seeds for row in rows]
            runs = [executor.submit(train, row, seed, data[row.data], output) for row, seed in turns]
            for run in runs:
                run.result()
    table(arguments.seeds, shared, output)


if __name__ == "__main__":
    main()
