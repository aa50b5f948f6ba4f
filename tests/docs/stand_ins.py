"""What the pages' commands need: tiny files under the names that the pages use."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

import divdet
from detection.data.synthetic import generate
from divdet.commands import COMMANDS

IMAGES = 8  # for training
# Settings that end a command soon; everything else is as the page has it.
SHORT = {
    "train-det": ["--train.epochs=1", "--train.warmup_epochs=0", "--train.workers=0", "--data.cache=false"],
    "train-cls": ["--train.epochs=1", "--train.warmup_epochs=0", "--train.cot_warmup_epochs=0", "--train.workers=0"],
    "benchmark": ["--rounds=2", "--seconds=0.01", "--batch_sizes=1"],
}


def write_template(folder: Path) -> None:
    """``data`` (COCO's layout) and ``detector.pt``, of which the stand-ins are copies."""
    generate(folder / "data", IMAGES, 4)
    words = ["--config=bccd", f"--data={folder / 'data'}", f"--output={folder / 'run'}", "--report=false"]
    train = COMMANDS["train-det"]
    train.call(train.parse([*words, "--model.backbone=resnet10_16", *SHORT["train-det"]], "divdet train-det"))
    (folder / "run/best.pt").rename(folder / "detector.pt")
    shutil.rmtree(folder / "run")


def _data(template: Path, place: Path) -> None:
    shutil.copytree(template / "data", place)


def _images(template: Path, place: Path) -> None:
    shutil.copytree(template / "data/images/val", place)


def _photo(template: Path, place: Path) -> None:
    shutil.copy(template / "data/images/val/000001.jpg", place)


def _checkpoint(template: Path, place: Path) -> None:
    shutil.copy(template / "detector.pt", place)


def _annotations(split: str) -> Callable[[Path, Path], None]:
    def write(template: Path, place: Path) -> None:
        shutil.copy(template / f"data/annotations/instances_{split}.json", place)

    return write


def _results(template: Path, place: Path) -> None:
    """Detections of every validation image: its objects, moved a little."""
    truth = json.loads((template / "data/annotations/instances_val.json").read_text())
    entries = [
        {key: entry[key] for key in ("image_id", "category_id")}
        | {"bbox": [entry["bbox"][0] + 1, *entry["bbox"][1:]], "score": 0.5 + entry["id"] % 5 / 10}
        for entry in truth["annotations"]
    ]
    place.write_text(json.dumps(entries))


def _video(template: Path, place: Path) -> None:
    writer = cv2.VideoWriter(str(place), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (64, 48))
    for _ in range(3):
        writer.write(np.full((48, 64, 3), 128, np.uint8))
    writer.release()


# By name; a page gets those that it names and does not write itself.
STAND_INS: dict[str, Callable[[Path, Path], None]] = {
    **dict.fromkeys(["my_set", "dataset", "photos_with_boxes", "runs/quickstart/data"], _data),
    **dict.fromkeys(["photos", "images", "val"], _images),
    **dict.fromkeys(["photo.jpg", "a.jpg", "b.jpg", "more.jpg", "street.jpg"], _photo),
    **dict.fromkeys(["runs/mine/best.pt", "runs/bccd/best.pt", "runs/quickstart/detector/best.pt"], _checkpoint),
    **dict.fromkeys(["best.pt", "new.pt", "ssd.pt", "fcos.pt"], _checkpoint),
    **dict.fromkeys(["train.json", "instances_train.json"], _annotations("train")),
    **dict.fromkeys(["val.json", "instances_val.json"], _annotations("val")),
    **dict.fromkeys(["yours.json", "theirs.json", "first.json", "second.json", "results.json"], _results),
    "runs/old/eval/detections.json": _results,
    "street.mp4": _video,
}


def write_stand_ins(text: str, template: Path, folder: Path) -> None:
    """Writes what a page's code, ``text``, names.

    Args:
        text: all code of the page.
        template: the folder of ``write_template``.
        folder: where the page's commands run.
    """
    for name, write in STAND_INS.items():
        place = folder / name
        if _read(name, text) and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            write(template, place)


def _read(name: str, code: str) -> bool:
    """Whether code reads a file or folder of this name before it writes it."""
    folder = str(Path(name).parent)
    found = re.search(rf"(?<![\w./]){re.escape(name)}(?![\w.])", code)
    written = re.search(rf"output(=\"| )({re.escape(name)}|{re.escape(folder)})(?=[\s\"]|$)", code)
    return bool(found) and not (written and written.start() < found.start())


def names(template: Path) -> dict[str, Any]:
    """What Python on the pages takes for granted."""
    rgb = cv2.cvtColor(cv2.imread(str(template / "data/images/val/000001.jpg")), cv2.COLOR_BGR2RGB)
    box = [0.1, 0.1, 0.5, 0.5]
    detector = divdet.Detector.load(template / "detector.pt", "cpu")
    return {
        **{"__name__": "page", "divdet": divdet, "cv2": cv2, "Detector": divdet.Detector, "detector": detector},
        **{"rgb": rgb, "image": rgb, "pil_image": Image.fromarray(rgb), "thousands": [rgb]},
        **{"boxes_list": [[box], [box]], "scores_list": [[0.9], [0.6]], "labels_list": [[0], [0]]},
        **{"model_a": detector, "model_b": detector, "mine": detector},
    }
