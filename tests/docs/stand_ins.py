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
from divdet.engine.recipes import RECIPES

IMAGES = (4, 3)  # for training and validation
QUICKSTART_IMAGES = (8, 8)  # enough for a crop of each class
NAMES = ("WBC", "RBC", "Platelets")  # the classes
# Settings that end a command soon; everything else is as the page has it.
SHORT = {
    "train-det": ["--train.epochs=1", "--train.warmup_epochs=0", "--train.workers=0", "--report=false"],
    "train-cls": ["--train.epochs=1", "--train.warmup_epochs=0", "--train.cot_warmup_epochs=0", "--train.workers=0"],
    "benchmark": ["--rounds=2", "--seconds=0.01", "--batch_sizes=1", "--backbone=resnet10_16"],
    "plan": [
        "--rounds=2",
        "--seconds=0.01",
        "--batch_size=1",
        "--backbones=resnet10_16",
        "--members=2",
        "--runtimes=torch",
    ],
}


def write_template(folder: Path) -> None:
    """``data`` (COCO's layout), ``yolo`` and ``detector.pt``, of which the stand-ins are copies."""
    generate(folder / "data", *IMAGES)
    for file in (folder / "data/annotations").iterdir():
        data = json.loads(file.read_text())
        for entry in data["annotations"]:
            entry["category_id"] = 1 + entry["category_id"] % len(NAMES)
        data["categories"] = [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)]
        file.write_text(json.dumps(data))
    _run("convert", str(folder / "data"), "--to=yolo", f"--output={folder / 'yolo'}")
    words = [f"--data={folder / 'data'}", f"--output={folder / 'run'}", *SHORT["train-det"]]
    _run("train-det", "--config=bccd", "--model.backbone=resnet10_16", *words)
    (folder / "run/best.pt").rename(folder / "detector.pt")
    shutil.rmtree(folder / "run")


def _run(name: str, *words: str) -> None:
    COMMANDS[name].call(COMMANDS[name].parse(words, f"divdet {name}"))


def _coco(template: Path, place: Path) -> None:
    shutil.copytree(template / "data", place)


def _yolo(template: Path, place: Path) -> None:
    shutil.copytree(template / "yolo", place)


def _unsplit(template: Path, place: Path) -> None:
    shutil.copytree(template / "data/images/train", place / "images")
    shutil.copy(template / "data/annotations/instances_train.json", place / "annotations.json")


def _pipeline(template: Path, place: Path) -> None:
    place.write_text("- HorizontalFlip: {p: 0.5}\n")


def _labels(template: Path, place: Path) -> None:
    shutil.copytree(template / "yolo", place.parent, dirs_exist_ok=True)


def _images(template: Path, place: Path) -> None:
    shutil.copytree(template / "data/images/val", place)
    image = cv2.imread(str(template / "data/images/val/000001.jpg"))
    cv2.imwrite(str(place / "another.png"), image)


def _photo(template: Path, place: Path) -> None:
    shutil.copy(template / "data/images/val/000001.jpg", place)


def _checkpoint(template: Path, place: Path) -> None:
    shutil.copy(template / "detector.pt", place)


def _run_folder(template: Path, place: Path) -> None:
    place.mkdir()
    shutil.copy(template / "detector.pt", place / "best.pt")


def _annotations(template: Path, place: Path) -> None:
    """Of the validation images, as ``images`` and ``photos`` have no others."""
    shutil.copy(template / "data/annotations/instances_val.json", place)


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
    **dict.fromkeys(["my_set", "dataset", "photos_with_boxes"], _yolo),
    **dict.fromkeys(["photos", "images", "val"], _images),
    "runs/quickstart/data": _coco,
    "labels": _labels,
    "unsplit": _unsplit,
    "mine.yaml": _pipeline,
    **dict.fromkeys(["photo.jpg", "a.jpg", "b.jpg", "more.jpg", "street.jpg"], _photo),
    **dict.fromkeys(["runs/mine/best.pt", "runs/bccd/best.pt", "runs/quickstart/detector/best.pt"], _checkpoint),
    **dict.fromkeys(["runs/s1", "runs/s4"], _run_folder),
    **dict.fromkeys(["best.pt", "new.pt", "ssd.pt", "fcos.pt"], _checkpoint),
    **dict.fromkeys(["train.json", "val.json", "instances_train.json", "instances_val.json"], _annotations),
    **dict.fromkeys(["yours.json", "theirs.json", "first.json", "second.json", "results.json"], _results),
    "runs/old/eval/detections.json": _results,
    "street.mp4": _video,
}


def write_stand_ins(code: str, template: Path, folder: Path) -> None:
    """Writes what a page's code names.

    Args:
        code: all of the page.
        template: the folder of ``write_template``.
        folder: where the page's commands run.
    """
    (folder / "configs").symlink_to(RECIPES)
    if "…" in code or "divdet export" in code:  # an exported file remembers its data
        code += " my_set"
    for name, write in STAND_INS.items():
        place = folder / name
        if _read(name, code) and not place.exists():
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
        **{"model_a": detector, "model_b": detector, "torchvision_model": detector},
    }
