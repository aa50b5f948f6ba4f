"""The 12 COCO numbers of generated detections at val2017's scale: ours (hotcoco), pycocotools, faster-coco-eval.

    pip install faster-coco-eval
    python benchmarks/evaluation.py                  # 5,000 images, 500,000 detections: 10 minutes
    python benchmarks/evaluation.py --images 500

Each runs in a process of its own, from arrays (ours image by image, the others in one [n, 7] array, their fastest way)
and from a results file. The time ends at the 12 numbers; it does not include imports and reading the ground truth.
Memory is the process's peak, imports included, and that less what it held before. The exit status is 1 unless our
numbers are pycocotools', bit for bit.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

WAYS = ("ours", "pycocotools", "faster-coco-eval")
STARTS = ("arrays", "file")
CATEGORIES = 80
PER_IMAGE = 100

Arrays = Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]  # image id, boxes xyxy, scores, labels


def generate(folder: Path, images: int) -> None:
    """Write truth.json, results.json and the same detections as found.npz.

    Objects per image as in val2017 (7 on average, 1 % of the images without), sizes log-uniform, 1 % crowds. At most
    four fifths of an image's detections lie near objects. Scores have 3 decimals, so that many are equal.
    """
    rng = np.random.default_rng(0)
    category_ids = np.sort(rng.permutation(90)[:CATEGORIES] + 1)
    share = 1 / np.arange(1, CATEGORIES + 1)
    share /= share.sum()
    image_ids = 900_000_001 + rng.permutation(3 * images)[:images]  # beyond float32
    annotations: list[dict[str, Any]] = []
    found: list[tuple[np.ndarray, ...]] = []
    for image_id in image_ids.tolist():
        count = 0 if rng.random() < 0.01 else int(rng.geometric(1 / 7.3))
        own = rng.choice(rng.choice(CATEGORIES, 3, p=share), count)
        objects = _boxes(rng, count)
        for box, label, crowd in zip(objects.tolist(), own, rng.random(count) < 0.01, strict=True):
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": int(category_ids[label])}
            entry |= {"bbox": box, "area": round(0.6 * box[2] * box[3], 2), "iscrowd": int(crowd)}
            annotations.append(entry)
        near = min(6 * count, 4 * PER_IMAGE // 5)
        source = rng.integers(0, max(count, 1), near)
        moved = objects[source] * 1.0
        moved += rng.normal(0, 1, (near, 4)) * rng.uniform(0.01, 0.3, (near, 1)) * np.tile(moved[:, 2:], 2)
        boxes = np.concatenate([moved, _boxes(rng, PER_IMAGE - near)])
        boxes[:, 2:] = boxes[:, 2:].clip(1)
        labels = rng.choice(CATEGORIES, PER_IMAGE, p=share)
        right = np.flatnonzero(rng.random(near) < 0.85)
        labels[right] = own[source[right]]
        scores = np.concatenate([rng.beta(2, 2, near), rng.beta(1, 6, PER_IMAGE - near)])
        found.append((boxes.round(2), scores.round(3), labels))
    truth = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in image_ids.tolist()],
        "categories": [{"id": i, "name": f"thing {i}"} for i in category_ids.tolist()],
        "annotations": annotations,
    }
    (folder / "truth.json").write_text(json.dumps(truth))
    boxes, scores, labels = (np.stack(parts) for parts in zip(*found, strict=True))
    corners = np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)
    np.savez(folder / "found.npz", image_ids=image_ids, boxes=corners, scores=scores, labels=labels)
    rows = table_of(folder, category_ids).tolist()
    entries = [
        {"image_id": int(i), "category_id": int(category), "bbox": box, "score": score}
        for i, *box, score, category in rows
    ]
    (folder / "results.json").write_text(json.dumps(entries))


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes ``[count, 4]`` xywh in an image of 640 x 480, two decimals."""
    sides = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    corners = rng.random((count, 2)) * (np.array([640, 480]) - sides).clip(1)
    return np.concatenate([corners, sides], axis=1).round(2)


def as_arrays(folder: Path) -> Arrays:
    """The detections image by image, as a detector hands them in."""
    with np.load(folder / "found.npz") as file:
        yield from zip(file["image_ids"].tolist(), file["boxes"], file["scores"], file["labels"], strict=True)


def table_of(folder: Path, category_ids: np.ndarray) -> np.ndarray:
    """The detections as pycocotools takes arrays: ``[n, 7]``, image id, x, y, width, height, score, category id."""
    parts = []
    for image_id, boxes, scores, labels in as_arrays(folder):
        sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).round(2)
        parts.append(np.column_stack([np.full(len(boxes), image_id), sides, scores, category_ids[labels]]))
    return np.concatenate(parts)


def ours(folder: Path, start: str) -> Callable[[], list[float]]:
    from detection.data.coco import load_annotations
    from detection.data.coco_results import load_results
    from detection.evaluation.coco_metrics import METRICS, CocoEvaluator, evaluate

    annotations = load_annotations(folder / "truth.json", None)

    def score() -> list[float]:
        if start == "file":
            metrics = evaluate(annotations, load_results(folder / "results.json", annotations))
        else:
            evaluator = CocoEvaluator(annotations)
            for image in as_arrays(folder):
                evaluator.add(*image)
            metrics = evaluator.metrics()
        return [metrics[key] for key in METRICS]

    return score


def peer(name: str, folder: Path, start: str) -> Callable[[], list[float]]:
    if name == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    truth = COCO(str(folder / "truth.json"))
    ids = np.array(sorted(truth.cats))

    def score() -> list[float]:
        if start == "file":
            results = truth.loadRes(str(folder / "results.json"))
        else:
            results = truth.loadRes(table_of(folder, ids))
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return [float(value) for value in evaluation.stats[:12]]

    return score


def resident(which: str) -> float:
    """This process's memory in MiB: VmRSS (now) or VmHWM (its peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024


def worker(name: str, start: str, folder: Path) -> None:
    """Run one way once; print what it found as JSON."""
    with contextlib.redirect_stdout(io.StringIO()):
        score = ours(folder, start) if name == "ours" else peer(name, folder, start)
        before, began = resident("VmRSS"), time.perf_counter()
        numbers = score()
        seconds = time.perf_counter() - began
    peak = resident("VmHWM")
    print(json.dumps({"numbers": numbers, "seconds": seconds, "peak": peak, "growth": peak - before}))


def main() -> int:
    """Generate, run every way, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3, help="all ways run once in each")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        name, start, folder = arguments.worker
        worker(name, start, Path(folder))
        return 0
    from benchmarks.machine import describe, machine  # not above: it loads torch, which the workers should not

    print(describe(machine("hotcoco", "pycocotools", "faster-coco-eval", "numpy")))
    right = True
    with tempfile.TemporaryDirectory() as name:
        generate(Path(name), arguments.images)
        objects = len(json.loads((Path(name) / "truth.json").read_text())["annotations"])
        print(f"{arguments.images} images, {objects} objects, {PER_IMAGE * arguments.images} detections\n")
        print(
            "| start | | seconds, median | range | times pycocotools | peak, MiB | of it the evaluation's | numbers |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for start in STARTS:
            command = [sys.executable, __file__, "--worker"]
            found = [
                {way: json.loads(subprocess.check_output([*command, way, start, name])) for way in WAYS}
                for _ in range(arguments.rounds)
            ]
            for way in WAYS:
                pairs = [
                    (own, wanted)
                    for one in found
                    for own, wanted in zip(one[way]["numbers"], one["pycocotools"]["numbers"], strict=True)
                ]
                equal = sum(own == wanted for own, wanted in pairs) // arguments.rounds
                apart = max(abs(own - wanted) for own, wanted in pairs)
                right &= way == "faster-coco-eval" or apart == 0
                seconds = [one[way]["seconds"] for one in found]
                ratio = median(one["pycocotools"]["seconds"] / one[way]["seconds"] for one in found)
                print(
                    f"| {start} | {way} | {median(seconds):.2f} | {min(seconds):.2f} to {max(seconds):.2f} | "
                    f"{ratio:.1f} | {median(one[way]['peak'] for one in found):.0f} | "
                    f"{median(one[way]['growth'] for one in found):.0f} | {equal} of 12 equal, {apart:.1g} apart at "
                    "most |",
                    flush=True,
                )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
