"""Small objects in large photos: a detector trained and run on tiles, against the same detector on whole photos.

    python benchmarks/small_objects.py --output runs/small_objects
    python benchmarks/small_objects.py --output runs/small_objects --case ../shared/cases/large_small

Draws photos of 24-pixel boxes and discs, cuts them into tiles (``divdet convert --tile 300``), trains configs/det/bccd
on the tiles, and evaluates it on further photos, by tiles and without; a ``--case`` (a COCO data set of the same two
classes) likewise. Finished steps are not repeated. ``small_objects.json`` in the output folder holds the figures.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.floors import run
from benchmarks.machine import describe, machine

SIDE = 24  # pixels of an object
COLORS = {1: (221, 61, 49), 2: (49, 91, 221)}  # box, disc
CATEGORIES = [{"id": 1, "name": "box"}, {"id": 2, "name": "disc"}]
SIZES = {"train": (10, 1500, 1100), "val": (3, 3000, 2200)}  # photos, width, height
PER_MEGAPIXEL = 16  # objects
TILE, OVERLAP, BATCH = 300, 0.2, 16


def draw(folder: Path, split: str, random: np.random.Generator) -> None:
    """Photos on plain or grainy backgrounds; objects do not overlap."""
    count, width, height = SIZES[split]
    images, entries = [], []
    (folder / "images" / split).mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        pixels = np.full((height, width, 3), random.integers(50, 140, 3), np.float32)
        pixels += random.normal(0, random.choice([0, 3, 8]), pixels.shape)
        photo = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        pen, corners = ImageDraw.Draw(photo), []
        while len(corners) < PER_MEGAPIXEL * width * height / 1e6:
            x, y = random.integers(0, width - SIDE), random.integers(0, height - SIDE)
            if all(max(abs(x - a), abs(y - b)) > SIDE for a, b in corners):
                corners.append((x, y))
                category = int(random.integers(1, 3))
                shape = pen.rectangle if category == 1 else pen.ellipse
                shape([int(x), int(y), int(x) + SIDE - 1, int(y) + SIDE - 1], fill=COLORS[category])
                entry = {"id": len(entries) + 1, "image_id": number, "category_id": category}
                entries.append(entry | {"bbox": [int(x), int(y), SIDE, SIDE], "area": SIDE**2, "iscrowd": 0})
        photo.save(folder / "images" / split / f"{number}.jpg", quality=92)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": width, "height": height})
    (folder / "annotations").mkdir(exist_ok=True)
    truth = {"images": images, "annotations": entries, "categories": CATEGORIES}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(truth))


def evaluate(name: str, checkpoint: Path, data: Path, folder: Path) -> dict[str, float]:
    """AP of whole photos and by tiles."""
    found = {}
    for way, options in (
        ("whole", []),
        ("tiles", ["--tile", TILE, "--overlap", OVERLAP]),
        ("tiles alone", ["--tile", TILE, "--overlap", OVERLAP, "--whole_image", "false"]),
    ):
        output = folder / f"{name} {way}".replace(" ", "_")
        metrics = output / "metrics.json"
        if not metrics.exists():
            words = ["--checkpoint", checkpoint, "--data.val_annotations", data, *options, "--device", "cpu"]
            run("eval_det.py", *words, "--output", output)
        found[way] = json.loads(metrics.read_text())["AP"]
    return found


def timed(checkpoint: Path, photo: Path) -> dict[str, float]:
    """Seconds of a photo by tiles, and of as many inputs alone: network and post-processing; the best of 3 rounds."""
    from detection import Detector
    from detection.images import read_image
    from detection.prediction_settings import ViewSettings
    from detection.views import cut_views, plan_views

    detector = Detector.load(checkpoint, "cpu")
    image = read_image(photo)
    settings = ViewSettings(tile=TILE, overlap=OVERLAP)
    number = len(plan_views(*image.shape[1::-1], settings, detector.input))
    (batch, _), *_ = cut_views([(0, image)], settings, detector.input, BATCH)
    detector.detect(batch)
    by_tiles, alone = [], []
    for _ in range(3):
        start = time.perf_counter()
        detector.predict(image, batch_size=BATCH, tile=TILE, overlap=OVERLAP)
        by_tiles.append(time.perf_counter() - start)
        start = time.perf_counter()
        for _ in range(number // BATCH):
            detector.detect(batch)
        alone.append((time.perf_counter() - start) * number / (number // BATCH * BATCH))
    return {"inputs": number, "seconds": min(by_tiles), "seconds of the inputs alone": min(alone)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/small_objects"))
    parser.add_argument("--case", type=Path, help="a further COCO data set of the classes box and disc")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    options.output = options.output.absolute()
    photos, tiles, trained = (options.output / name for name in ("photos", "tiles", "trained"))
    if not photos.exists():
        random = np.random.default_rng(0)
        for split in SIZES:
            draw(photos, split, random)
    if not tiles.exists():
        run("convert.py", photos, "--to", "coco", "--tile", TILE, "--overlap", OVERLAP, "--output", tiles)
    if not (trained / "best.pt").exists():
        shared = ["--train.evaluate_every", options.epochs, "--device", "cpu", "--output", trained]
        words = ["--config", "bccd", "--data.path", tiles, "--train.epochs", options.epochs, *shared]
        minutes = run("train_det.py", *words)
        (options.output / "minutes.json").write_text(json.dumps(minutes))
    checkpoint = trained / "best.pt"
    report = {"machine": machine(), "minutes": json.loads((options.output / "minutes.json").read_text()), "AP": {}}
    report["AP"]["photos"] = evaluate(
        "photos", checkpoint, photos / "annotations" / "instances_val.json", options.output
    )
    if options.case:
        options.case = options.case.absolute()
        report["AP"][options.case.name] = evaluate(options.case.name, checkpoint, options.case, options.output)
    report["time"] = timed(checkpoint, photos / "images" / "val" / "1.jpg")
    (options.output / "small_objects.json").write_text(json.dumps(report, indent=1))
    print(describe(report["machine"]))
    print(json.dumps({key: value for key, value in report.items() if key != "machine"}, indent=1))


if __name__ == "__main__":
    main()
