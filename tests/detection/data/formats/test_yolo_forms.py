"""Labels whose lines have another form than class cx cy w h are refused in one line, sound ones never."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from detection.data.faults import DataError
from detection.data.formats.read import read_annotations
from detection.data.formats.yolo_forms import LineForms
from detection.settings import EvalDataSettings
from tests.detection.data.formats.made import SIZE, image, text

Line = Callable[[int, list[float]], str]  # class and x1 y1 w h as fractions
NAMES = ["cat", "dog", "traffic light"]


def numbers(*values: float) -> str:
    return " ".join(f"{value:.6f}" for value in values)


def center(x: float, y: float, w: float, h: float) -> list[float]:
    return [x + w / 2, y + h / 2, w, h]


def pixels(values: list[float]) -> list[float]:
    return [value * side for value, side in zip(values, SIZE * 2, strict=True)]


FORMS: dict[str, tuple[Line, str]] = {
    "corners": (
        lambda c, b: f"{c} {numbers(b[0], b[1], b[0] + b[2], b[1] + b[3])}",
        "has boxes that look like x1, y1, x2, y2 (",
    ),
    "corner and size": (lambda c, b: f"{c} {numbers(*b)}", "has boxes that look like the upper left corner and size ("),
    "pixels": (lambda c, b: f"{c} {numbers(*pixels(center(*b)))}", "has boxes in pixels or percent ("),
    "corners in pixels": (
        lambda c, b: f"{c} {numbers(*pixels([b[0], b[1], b[0] + b[2], b[1] + b[3]]))}",
        "and they look like x1, y1, x2, y2)",
    ),
    "class last": (lambda c, b: f"{numbers(*center(*b))} {c}", "has the class at the end of its lines ("),
    "class last, in pixels": (
        lambda c, b: " ".join(f"{value:.0f}" for value in pixels(center(*b))) + f" {c}",
        "has the class at the end of its lines (",
    ),
    "names": (
        lambda c, b: f"{NAMES[c]} {numbers(*center(*b))}",
        "has names of classes instead of their numbers (60 of 60, such as",
    ),
    "from 1": (lambda c, b: f"{c + 1} {numbers(*center(*b))}", "has classes numbered from 1 to 3 ("),
}


def boxes(seed: int = 0, count: int = 60) -> list[tuple[int, list[float]]]:
    """Classes and boxes all over the image."""
    random = np.random.default_rng(seed)
    side = random.uniform(0.05, 0.4, (count, 2))
    start = random.uniform(0, 1, (count, 2)) * (1 - side)
    return [(number % 3, [*a, *b]) for number, (a, b) in enumerate(zip(start.tolist(), side.tolist(), strict=True))]


def data_set(folder: Path, lines: list[str], images: int = 6) -> EvalDataSettings:
    for number in range(images):
        image(folder / "images" / f"{number}.png", number)
        text(folder / "labels" / f"{number}.txt", "".join(f"{line}\n" for line in lines[number::images]))
    return EvalDataSettings(train_annotations=str(text(folder / "data.yaml", f"train: images\nnames: {NAMES}\n")))


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_are_refused_in_one_line(form: str, tmp_path: Path) -> None:
    line, words = FORMS[form]
    data = data_set(tmp_path, [line(*row) for row in boxes()])
    with pytest.raises(DataError) as raised:
        read_annotations(data, "train")
    (fault,) = raised.value.faults
    assert fault.file == str(tmp_path / "data.yaml")
    assert words in fault.what


def test_both_mistakes_are_named_beside_faults_of_their_own(tmp_path: Path) -> None:
    lines = [FORMS["corners"][0](label + 1, box) for label, box in boxes()]
    with pytest.raises(DataError) as raised:
        read_annotations(data_set(tmp_path, [*lines, "2 0.5 0.5"]), "train")
    classes, forms, single = [fault.what for fault in raised.value.faults]
    assert "numbered from 1" in classes
    assert "x1, y1, x2, y2" in forms
    assert "has 3 columns" in single


def test_sound_labels_are_never_refused(tmp_path: Path) -> None:
    own = FORMS["corners"][0]
    sound = [f"{label} {numbers(*center(*box))}" for label, box in boxes()]
    mistakes = [own(label, box) for label, box in boxes(1, 5)]
    over = [f"0 {numbers(0.01 + n / 90, 0.5, 0.06, 0.1)}" for n in range(8)]  # drawn over the border
    slip = ["0 0.24 0.3 0.5 0.3"] * 20  # by 2 pixels of 100
    for number, lines in enumerate(
        ([*sound, *mistakes], [*sound, *over], over, ["1 0.5 0.5 1 1"] * 20, ["2 1 1 1 1"], slip)
    ):
        read_annotations(data_set(tmp_path / str(number), lines), "train")


def test_few_names_and_few_pixels_are_faults_of_their_lines(tmp_path: Path) -> None:
    lines = [f"{label} {numbers(*center(*box))}" for label, box in boxes()]
    with pytest.raises(DataError) as raised:
        read_annotations(data_set(tmp_path, [*lines, "dog 0.5 0.5 0.1 0.1", "0 50 50 10 10"]), "train")
    assert [fault.what.partition(":")[0] for fault in raised.value.faults] == [
        "has class 'dog', which is a name",
        "has 50",
    ]


@pytest.mark.parametrize("name", ["bccd", "coco_subset"])
def test_real_boxes_in_every_form(name: str, shared: Path, tmp_path: Path) -> None:
    """Right in YOLO's form, refused in the others."""
    truth = json.loads((shared / "data" / name / "annotations" / "instances_val.json").read_text())
    sizes = {entry["id"]: (entry["width"], entry["height"]) for entry in truth["images"]}
    own = {"own": (lambda c, b: f"{c} {numbers(*center(*b))}", "")}
    for form in ("own", "corners", "corner and size", "class last"):
        line, words = (own | FORMS)[form]
        lines = LineForms({number: str(number) for number in range(100)})
        for entry in truth["annotations"]:
            size = sizes[entry["image_id"]]
            box = [value / side for value, side in zip(entry["bbox"], size * 2, strict=True)]
            lines.add(line(entry["category_id"], box).split(), tmp_path, 1, size)
        found = lines.wrong_classes() or lines.wrong_boxes()
        assert words in found
        assert bool(found) == bool(words), form
