"""Trains the small recipes from scratch and holds their figures against what they must reach.

    python benchmarks/floors.py                       # all; needs the reference data, ../shared or $DIVDET_SHARED
    python benchmarks/floors.py quickstart            # needs no data
    python benchmarks/floors.py bccd --output runs/floors

Prints the table rows of each recipe as soon as it is done and writes all rows to floors.json in the output folder.
Exit code 1 if a figure is missed; the minutes are reported, not judged, since machines differ.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
Row = dict[str, float | str | bool]


def run(tool: str, *arguments: object) -> float:
    """Runs a command line of ``tools/``; returns its wall time in minutes. A failure ends the benchmark, too."""
    began = time.perf_counter()
    code = subprocess.run([sys.executable, ROOT / "tools" / tool, *map(str, arguments)], cwd=ROOT).returncode
    if code:
        sys.exit(code)
    return (time.perf_counter() - began) / 60


def last_epoch(folder: Path) -> dict[str, float]:
    """The last line of a run's metrics.jsonl."""
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


def bccd(data: Path, folder: Path) -> Iterator[Row]:
    """One's own data: 205 microscope photos of blood cells, evaluated on 87 others."""
    images, annotations = data / "bccd/images", data / "bccd/annotations"
    minutes = run(
        "train_det.py",
        *("--config", "configs/det/bccd.yaml", "--output", folder),
        *("--data.train_annotations", annotations / "instances_train.json", "--data.train_images", images),
        *("--data.val_annotations", annotations / "instances_val.json", "--data.val_images", images),
    )
    found = last_epoch(folder)
    yield {"figure": "bccd AP", "value": found["AP"], "above": 0.52, "minutes": minutes}
    yield {"figure": "bccd AP50", "value": found["AP50"], "above": 0.87, "minutes": minutes}


def quickstart(data: Path, folder: Path) -> Iterator[Row]:
    """The README's first command."""
    minutes = run("quickstart.py", "--output", folder)
    found = json.loads((folder / "detector/eval/metrics.json").read_text())
    yield {"figure": "quickstart AP50", "value": found["AP50"], "above": 0.6, "minutes": minutes}


def cifar10(data: Path, folder: Path) -> Iterator[Row]:
    """Co-training on CIFAR-10: the ensemble must be above every member, and each far above chance (10 %)."""
    config = ("--config", "configs/cls/cifar10_small.yaml", "--data.root", data / "cifar10.npz")
    minutes = run("train_cls.py", *config, "--output", folder)
    found = last_epoch(folder)
    members = [value for name, value in found.items() if name.startswith("top1_member")]
    yield {"figure": "CIFAR-10 ensemble, %", "value": found["top1"], "above": max(members), "minutes": minutes}
    yield {"figure": "CIFAR-10 worst member, %", "value": min(members), "above": 50.0, "minutes": minutes}


def overfit(data: Path, folder: Path) -> Iterator[Row]:
    """16 COCO photos learnt by heart: targets, loss, decoding and evaluation agree."""
    images = data / "coco_ccby/images"
    truth = json.loads((data / "coco_ccby/annotations/instances_val.json").read_text())
    truth["images"] = truth["images"][:16]
    kept = {image["id"] for image in truth["images"]}
    truth["annotations"] = [box for box in truth["annotations"] if box["image_id"] in kept]
    few = folder.with_suffix(".json")
    few.write_text(json.dumps(truth))
    minutes = run(
        "train_det.py",
        *("--config", "configs/det/bccd.yaml", "--output", folder, "--data.train_annotations", few),
        *("--data.train_images", images, "--data.val_annotations", few, "--data.val_images", images),
        *("--data.photometric", "false", "--data.flip", 0, "--data.iou_crop", 0, "--data.zoom_out", 0),
        *("--train.epochs", 60, "--train.evaluate_every", 60, "--train.warmup_epochs", 8, "--train.workers", 0),
    )
    yield {"figure": "overfit AP50", "value": last_epoch(folder)["AP50"], "above": 0.9, "minutes": minutes}


RECIPES: dict[str, Callable[[Path, Path], Iterator[Row]]] = {
    recipe.__name__: recipe for recipe in (bccd, quickstart, overfit, cifar10)
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="recipe", help=", ".join(RECIPES))
    parser.add_argument("--data", type=Path, help="the folder of real images, by default data/ of the reference data")
    parser.add_argument("--output", type=Path, default=ROOT / "runs/floors")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.recipes if name not in RECIPES]
    if unknown:
        parser.error(f"no recipe {unknown[0]!r}: choose from {', '.join(RECIPES)}")
    data = (arguments.data or Path(os.environ.get("DIVDET_SHARED", ROOT.parent / "shared")) / "data").resolve()
    names = arguments.recipes or list(RECIPES)
    if names != ["quickstart"] and not data.is_dir():
        parser.error(f"{data}: no such folder; name it with --data, or run the quickstart alone")
    arguments.output.mkdir(parents=True, exist_ok=True)

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, CUDA {torch.cuda.is_available()}", flush=True)
    rows: list[Row] = []
    for name in names:
        folder = (arguments.output / name).resolve()
        if name != "quickstart" and folder.exists():
            parser.error(f"{folder} already holds a run: choose another --output")
        for row in RECIPES[name](data, folder):
            row["reached"] = row["value"] > row["above"]
            rows.append(row)
            verdict = "reached" if row["reached"] else "MISSED"
            figures = f"{row['value']:.4g} | above {row['above']:.4g} | {row['minutes']:.1f} min"
            print(f"| {row['figure']} | {figures} | {verdict} |", flush=True)
        (arguments.output / "floors.json").write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if all(row["reached"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
