"""Trains and measures the rows of docs/evidence.md, one result file each; stop it at any time and start it again.

    python -m benchmarks.evidence.run cpu                  # what has no result file yet; hours on two cores
    python -m benchmarks.evidence.run cpu --rows cells50_w24_s1 cells50_w24_s4 --minutes 30
    python -m benchmarks.evidence.run gpu --results runs/evidence --work runs/evidence-work
    python -m benchmarks.evidence.run cpu --rows cifar2k_w16_s1 --seeds 0 --results runs/a --work runs/a  # once more

Data: ``bccd``, ``coco_subset``, ``cifar10.npz`` and ``tinyimagenet64.npz`` in ../shared/data, or $DIVDET_SHARED/data.
A result holds the metrics of tools/eval_cls.py or eval_det.py on the last weights, the recipe as it was resolved, the
network's cost, the training's minutes, the machine and the threads. A training that was stopped goes on from its last
epoch. Two at once, each on one core: OMP_NUM_THREADS=1, and other --seeds for each.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.evidence.resampling import resampled_ap
from benchmarks.evidence.rows import METRIC, PROTOCOLS, ROWS, Row
from benchmarks.machine import machine
from detection.data.coco import load_annotations
from detection.data.coco_json import read_json
from detection.data.coco_results import load_results
from detection.data.dataset import EvaluationImages
from detection.detector import Detector, to_pixels
from detection.evaluation.coco_metrics import CocoEvaluator
from detection.postprocess import fuse, head_boxes
from detection.preprocess import Normalize
from divdet.commands.plan_runs import network_of
from divdet.engine import checkpoint
from divdet.engine.cli import run
from divdet.engine.files import make_folder, write_atomically, write_json

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/evidence/results"
# The recipe's own but for this
FUSIONS: dict[str, dict[str, Any]] = {
    "max": {"fusion_conf": "max"},
    "box_and_model_avg": {"fusion_conf": "box_and_model_avg"},
    "absent_model_aware_avg": {"fusion_conf": "absent_model_aware_avg"},
    "fusion_iou 0.5": {"fusion_iou": 0.5},
    "fusion_iou 0.7": {"fusion_iou": 0.7},
    "nms": {"fusion_method": "nms", "fusion_iou": 0.45},
    "soft_nms": {"fusion_method": "soft_nms"},
    "nmw": {"fusion_method": "nmw"},
}


def tool(name: str, *words: object) -> None:
    """Runs a command line of tools/; its failure ends this one, too. A stop is left to it: it saves before it ends."""
    child = subprocess.Popen([sys.executable, ROOT / "tools" / name, *map(str, words)], cwd=ROOT)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:
        try:
            code = child.wait()
            break
        except KeyboardInterrupt:  # the terminal has told the child, too
            continue
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if code:
        sys.exit(code if code > 0 else 128 - code)


def annotations_file(row: Row, split: str, seed: int, data: Path, work: Path) -> Path:
    """The row's annotations; where it takes a part of them, that part in a file below ``work``."""
    path = data / row.data / f"annotations/instances_{split}.json"
    images = row.images if split == "train" else None
    if not row.categories and images is None:
        return path
    parts = [Path(row.data).stem, *row.categories, *([f"{images}of{seed}"] if images else []), split]
    picked = work / f"{'_'.join(parts)}.json"
    found = read_json(path)
    if row.categories:
        found["categories"] = [one for one in found["categories"] if one["name"] in row.categories]
        kept = {one["id"] for one in found["categories"]}
        found["annotations"] = [one for one in found["annotations"] if one["category_id"] in kept]
        shown = {one["image_id"] for one in found["annotations"]}
        found["images"] = [one for one in found["images"] if one["id"] in shown]
    if images:
        found["images"] = random.Random(seed).sample(found["images"], images)
        drawn = {one["id"] for one in found["images"]}
        found["annotations"] = [one for one in found["annotations"] if one["image_id"] in drawn]
    work.mkdir(parents=True, exist_ok=True)
    write_json(found, picked)
    return picked


def data_words(row: Row, seed: int, data: Path, work: Path) -> list[str]:
    """Where the row's data is, as words of a command line."""
    if row.task == "cls":
        return [f"--data.root={data / row.data}"]
    return [
        word
        for split in ("train", "val")
        for word in (
            f"--data.{split}_annotations={annotations_file(row, split, seed, data, work)}",
            f"--data.{split}_images={data / row.data / 'images'}",
        )
    ]


def train(row: Row, seed: int, data: Path, work: Path) -> Path:
    """Trains a run, or the rest of it, and first what it starts from; returns its last checkpoint."""
    output = work / f"{row.name}-{seed}"
    words = ["--config", f"configs/{row.config}", *row.words, f"--model.members={row.members}", f"--seed={seed}"]
    if row.start:
        words += [
            "--model.divide_from" if row.divide and row.members > 1 else "--model.pretrained",
            train(ROWS[row.start], seed, data, work),  # one that is done ends at once
        ]
    tool(f"train_{row.task}.py", *words, *data_words(row, seed, data, work), "--resume=auto", f"--output={output}")
    return output / "last.pt"


@torch.inference_mode()
def fusions(last: Path, row: Row, seed: int, members: list[float], data: Path, work: Path) -> dict[str, dict[str, Any]]:
    """AP and AP50 by other ways of fusion than the recipe's, from one pass of the network.

    Args:
        members: AP of each, the weights of ``weighted``.
    """
    detector = Detector.load(last)
    annotations = load_annotations(annotations_file(row, "val", seed, data, work), data / row.data / "images")
    images, normalize = EvaluationImages(annotations.images, detector.input), Normalize().to(detector.device)
    ways = {name: replace(detector.settings, **changed) for name, changed in FUSIONS.items()}
    ways["weighted"] = replace(detector.settings, member_weights=members)
    evaluators = {name: CocoEvaluator(annotations) for name in ways}
    for i in range(len(images)):
        inputs, width, height = images[i]
        outputs = detector.model(normalize(torch.as_tensor(inputs)[None].to(detector.device)))
        boxes = head_boxes(detector.model, *outputs, detector.settings)
        for name, settings in ways.items():
            pixels = to_pixels(fuse(boxes, settings)[0], int(width), int(height), detector.input)
            columns = (pixels.boxes.double().numpy(), pixels.scores.double().numpy(), pixels.labels.numpy())
            evaluators[name].add(annotations.images[i].id, *columns)
    found = {}
    for name, evaluator in evaluators.items():
        metrics = evaluator.metrics()
        found[name] = {key: round(metrics[key], 5) for key in ("AP", "AP50")}
    found["nms"]["resampled_AP"] = resampled_ap(annotations, evaluators["nms"].results())
    return found


def recipe(last: Path) -> dict[str, Any]:
    """What a checkpoint was trained with, less what may differ from run to run: paths and seed."""
    config = torch.load(last, weights_only=True, map_location="cpu")["config"]
    places = {"root", "train_annotations", "train_images", "val_annotations", "val_images", "pretrained", "divide_from"}
    parts = {name: part for name, part in config.items() if isinstance(part, dict)}
    return {name: {key: v for key, v in part.items() if key not in places} for name, part in parts.items()}


def curve(folder: Path, metric: str) -> list[tuple[int, float, float | None]]:
    """Epoch, mean training loss and, where it was evaluated, the metric."""
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(one["epoch"], round(one["train_loss"], 4), one.get(metric)) for one in epochs]


def cost(last: Path) -> dict[str, Any]:
    """What decides a network's speed, but for S, and its parameters and operations."""
    network = network_of(checkpoint.load(last))
    counted = network.cost()
    facts = {name: getattr(network, name) for name in ("task", "backbone", "classes", "image_size")}
    return facts | {"stem": network.form, "params": counted.params, "gflops": counted.gflops, "macs": counted.macs}


def measure(row: Row, seed: int, data: Path, work: Path) -> dict[str, Any]:
    """Trains and evaluates one run; ``minutes`` are those of a training that went through without a stop."""
    whole, began = not (work / f"{row.name}-{seed}" / "last.pt").exists(), time.perf_counter()
    last = train(row, seed, data, work)
    minutes = round((time.perf_counter() - began) / 60, 2) if whole else None
    evaluation = last.parent / "eval"
    tool(f"eval_{row.task}.py", f"--checkpoint={last}", f"--output={evaluation}")
    metrics = json.loads((evaluation / "metrics.json").read_text())
    for name in ("per_class", "checkpoint"):  # the second is a path of this machine
        metrics.pop(name, None)
    result = {
        "row": row.name,
        "task": row.task,
        "data": row.data,
        "config": row.config,
        "words": row.words,
        "start": row.start,
        "divide": row.divide,
        "categories": row.categories,
        "images": row.images,
        "members": row.members,
        "seed": seed,
        "metrics": metrics,
        "curve": curve(last.parent, METRIC[row.task]),
        "recipe": recipe(last),
        "cost": cost(last),
        "minutes": minutes,
        "machine": machine(),
        "threads": torch.get_num_threads(),
    }
    if row.task == "det":
        annotations = load_annotations(annotations_file(row, "val", seed, data, work), None)
        result["resampled_AP"] = resampled_ap(annotations, load_results(evaluation / "detections.json", annotations))
        if row.members > 1:
            members = [member["AP"] for member in metrics["members"]]
            result["fusion"] = fusions(last, row, seed, members, data, work)
    return result


def write_result(result: dict[str, Any], path: Path) -> None:
    """A line for each part, so that a file stays short and a change to it can be read."""
    lines = (f"{json.dumps(name)}: {json.dumps(part)}" for name, part in result.items())
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_atomically(path, lambda file: file.write_text(text))


def compare(result: dict[str, Any], protocol: str) -> None:
    """Prints a figure beside those of the row's results in the repository."""
    metric = METRIC[result["task"]]
    read = map(read_json, sorted((RESULTS / protocol).glob(f"{result['row']}-*.json")))
    known = ", ".join(f"{one['metrics'][metric]:.4g} (seed {one['seed']})" for one in read)
    own = f"{metric} {result['metrics'][metric]:.4g}"
    print(f"{result['row']}, seed {result['seed']}: {own}; the row's in the repository: {known or 'none'}")


def main() -> None:
    """Runs what has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = "gpu" if torch.cuda.is_available() else "cpu"
    parser.add_argument("protocol", nargs="?", choices=PROTOCOLS, default=here, help="default: gpu where there is one")
    parser.add_argument("--rows", nargs="+", help="names; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: each row's own")
    parser.add_argument("--minutes", type=float, help="no further run is begun after so many")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DIVDET_SHARED", ROOT / "../shared")) / "data")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/evidence", help="checkpoints; may be removed")
    arguments = parser.parse_args()
    rows = PROTOCOLS[arguments.protocol]
    if unknown := set(arguments.rows or ()) - {row.name for row in rows}:
        parser.error(f"no row {', '.join(sorted(unknown))}: choose from {', '.join(row.name for row in rows)}")
    if arguments.protocol == "gpu" and here == "cpu":
        parser.error("this machine has no GPU: run the protocol cpu")
    began = time.perf_counter()
    folder = arguments.results / arguments.protocol
    make_folder(folder)
    wanted = [row for row in rows if not arguments.rows or row.name in arguments.rows]
    if unknown := set(arguments.seeds or ()) - {seed for row in wanted for seed in row.seeds}:
        parser.error(f"none of these rows has a seed {', '.join(map(str, sorted(unknown)))}")
    runs = [(seed, row) for row in wanted for seed in row.seeds if not arguments.seeds or seed in arguments.seeds]
    for seed, row in runs:
        target = folder / f"{row.name}-{seed}.json"
        if target.exists():
            read_json(target)  # a damaged one is told of
            continue
        if arguments.minutes and time.perf_counter() - began > 60 * arguments.minutes:
            print("the time is up: start it again for the rest")
            return
        print(f"=== {row.name}, seed {seed}", flush=True)
        result = measure(row, seed, arguments.data.resolve(), arguments.work.resolve())
        write_result(result, target)
        compare(result, arguments.protocol)


if __name__ == "__main__":
    run(main)
