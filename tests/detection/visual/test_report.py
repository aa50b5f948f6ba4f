"""The report: its numbers by hand, its page in a browser, and data at the edges."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from detection.data.annotations import CocoAnnotations
from detection.data.coco import load_annotations
from detection.data.coco_results import Results
from detection.evaluation.coco_metrics import METRICS, evaluate
from detection.evaluation.evaluate import Evaluation
from detection.evaluation.matches import agreement, match, outcome
from detection.visual.report import Report, write_report
from divdet.commands import COMMANDS
from divdet.engine.errors import UserError
from tests.browser import CHROMIUM, Tags, console, width

LONG = "a_rather_long_name_without_any_place_to_break_it_<b>&"
SIDE = 40.0
HISTORY = [
    {"epoch": n, "lr": 0.1 / n, "train_loss": 4 / n, "train_loss_member1": 3 / n, "train_loss_member2": 1 / n}
    | {"train_localization": 1 / n, "train_classification": 3 / n, "train_cot": 0.1 * n}
    | {"AP": 0.1 * n, "AP50": 0.2 * n, "AP75": 0.05 * n, "AP_member1": 0.09 * n, "AP_member2": 0.08 * n}
    for n in range(1, 5)
]


def make(
    folder: Path, places: list[list[tuple[float, float]]], names: list[str], crowd: bool = False
) -> CocoAnnotations:
    """Images of 300 x 200 pixels with squares at the given corners, of the classes in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    images, objects = [], []
    for number, corners in enumerate(places):
        picture = np.full((200, 300, 3), 90, np.uint8)
        for x, y in corners:
            cv2.rectangle(picture, (int(x), int(y)), (int(x + SIDE), int(y + SIDE)), (200, 180, 40), -1)
            label = len(objects) % len(names)
            box = {"bbox": [x, y, SIDE, SIDE], "area": SIDE**2, "iscrowd": int(crowd), "category_id": label + 1}
            objects.append({"id": len(objects) + 1, "image_id": number, **box})
        name = f"{LONG}{number}.jpg"
        (folder / name).write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
        images.append({"id": number, "file_name": name, "width": 300, "height": 200})
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(names)]
    file = folder / "truth.json"
    file.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    return load_annotations(file, str(folder))


def results(*rows: tuple[int, int, float, float, float]) -> Results:
    """Squares: image, label, x, y, score."""
    columns = list(zip(*rows, strict=True)) or [()] * 5
    bbox = [[x, y, SIDE, SIDE] for _, _, x, y, _ in rows]
    image, label = (np.array(column, np.int64) for column in columns[:2])
    return Results(image, label, np.array(bbox, np.float64).reshape(-1, 4), np.array(columns[4], np.float64))


def evaluation(annotations: CocoAnnotations, fused: Results, members: list[Results]) -> Evaluation:
    scored = [{name: evaluate(annotations, one)[name] for name in METRICS} for one in members]
    return Evaluation(evaluate(annotations, fused) | {"members": scored}, fused, members)


def written(report: Report, folder: Path) -> str:
    write_report(report, folder / "report.html")
    text = (folder / "report.html").read_text(encoding="utf-8")
    tags = Tags(text).tags
    assert not [tag for tag, _ in tags if tag == "script"]
    addresses = [value for _, found in tags for key, value in found.items() if key in ("src", "href", "xlink:href")]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    defined = {found["id"] for _, found in tags if "id" in found}
    assert {address[1:] for address in addresses if address.startswith("#")} <= defined
    assert not re.search(r"\bnan\b|\binf\b|None", re.sub(r'"data:[^"]*"', "", text))
    return text


@pytest.fixture
def scene(tmp_path: Path) -> tuple[CocoAnnotations, Results, list[Results]]:
    """Two images of two and one object. By hand: the first member finds the first object and makes one up, the second
    finds the first two; the fused boxes find all three."""
    annotations = make(tmp_path / "data", [[(10, 10), (100, 20)], [(200, 100)]], ["cat", LONG])
    first = results((0, 0, 12, 10, 0.9), (1, 1, 20, 20, 0.8))
    second = results((0, 0, 10, 18, 0.9), (0, 1, 100, 20, 0.6))
    fused = results((0, 0, 10, 12, 0.9), (0, 1, 100, 20, 0.5), (1, 0, 200, 104, 0.4), (1, 1, 20, 20, 0.1))
    return annotations, fused, [first, second]


def test_objects_found_missed_and_made_up(scene: tuple[CocoAnnotations, Results, list[Results]]) -> None:
    annotations, fused, members = scene
    matches = [match(annotations, one) for one in (fused, *members)]
    assert matches[0].object.tolist() == [0, 1, 2, -1]
    assert matches[0].false.tolist() == [False, False, False, True]
    assert [one.threshold for one in matches] == [0.4, 0.9, 0.6]  # from where F1 is best
    found = [outcome(annotations, *pair) for pair in zip((fused, *members), matches, strict=True)]
    assert found[0].counts.tolist() == [[2, 0, 0], [1, 0, 0]]
    assert found[1].counts.tolist() == [[1, 1, 0], [0, 1, 0]]  # found, missed, made up
    assert outcome(annotations, fused, replace(matches[0], threshold=0.05)).counts.tolist() == [[2, 0, 0], [1, 0, 1]]
    assert outcome(annotations, fused, replace(matches[0], threshold=0.45)).f1().tolist() == [1, 0]
    shared = agreement(annotations, members, matches[1:], found[1:], found[0])
    assert shared.found.tolist() == [1, 1, 1]  # objects of none, one, both
    assert shared.fused.tolist() == [1, 1, 1]
    assert shared.ious == pytest.approx([(38 * 32) / (2 * 1600 - 38 * 32)])


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt install chromium")
def test_the_page_in_a_browser(scene: tuple[CocoAnnotations, Results, list[Results]], tmp_path: Path) -> None:
    """No error on the console, every picture decodes, and nothing is wider than a phone's 400 pixels."""
    annotations, fused, members = scene
    about = {"Checkpoint": "/runs/" + 40 * "long" + "/best.pt"}
    text = written(Report(annotations, evaluation(annotations, fused, members), about=about, history=HISTORY), tmp_path)
    assert LONG not in text  # escaped
    assert "Where fusion helped most" in text
    assert text.count("<svg viewBox") >= 9  # charts
    page = tmp_path / "report.html"
    assert not console(page)
    assert width(page, 400) == 400
    assert len(text) < 5_000_000


@pytest.mark.parametrize("kind", ["one image", "no object", "crowds", "no detection", "many classes", "results alone"])
def test_data_at_the_edges(kind: str, tmp_path: Path) -> None:
    classes = ["cat"] if kind != "many classes" else [f"{LONG}{number}" for number in range(80)]
    places = {"one image": [[(10, 10)]], "no object": [[], []]}.get(kind, [[(10, 10), (90, 90)], [(60, 20)], []])
    annotations = make(tmp_path / "data", places, classes, kind == "crowds")
    fused = results() if kind == "no detection" else results((0, 0, 10, 10, 0.9), (0, 0, 200, 100, 0.3))
    members = {"one image": [fused], "results alone": []}.get(kind, [fused, results()])
    if kind == "results alone":  # and without the images
        fused.score[1] = 0.8
        for record in annotations.images:
            record.path.unlink()
    text = written(Report(annotations, evaluation(annotations, fused, members)), tmp_path)
    assert ("Members against fusion" in text) == (len(members) > 1)
    if kind == "results alone":  # what pictures would show is said
        assert "<li>cat 0.80; nothing is annotated, in a_rather_long" in text
    assert ("could not be read" in text) == (kind == "results alone")
    assert ("nothing can be measured" in text) == (kind in ("no object", "crowds"))


def test_one_image_has_no_interval(tmp_path: Path) -> None:
    annotations = make(tmp_path, [[(10, 10)]], ["cat"])
    found = results((0, 0, 10, 12, 0.9))
    assert "95 %" not in written(Report(annotations, evaluation(annotations, found, [found, found])), tmp_path)


class ClosedPipe(io.StringIO):
    """A reader such as head, which leaves when the numbers come."""

    def write(self, text: str) -> int:
        if "Average Precision" in text:
            raise BrokenPipeError
        return super().write(text)


def test_a_results_file_has_pictures_where_its_images_are_named(tmp_path: Path) -> None:
    make(tmp_path / "data", [[(10, 10)], [(200, 100)]], ["cat"])
    box = {"image_id": 0, "category_id": 1, "bbox": [10, 10, SIDE, SIDE], "score": 0.9}
    (tmp_path / "found.json").write_text(json.dumps([box]))
    command = COMMANDS["eval-det"]
    words = [f"--detections={tmp_path / 'found.json'}", f"--data.val_annotations={tmp_path / 'data' / 'truth.json'}"]
    words += ["--report=true", f"--output={tmp_path}"]
    for images, drawn in (([], False), ([f"--data.val_images={tmp_path / 'data'}"], True)):
        command.call(command.parse([*words, *images]))
        assert ("<img" in (tmp_path / "report.html").read_text(encoding="utf-8")) == drawn

    (tmp_path / "report.html").unlink()
    with pytest.raises(BrokenPipeError), redirect_stdout(ClosedPipe()):
        command.call(command.parse(words))
    assert (tmp_path / "report.html").is_file()


def test_a_folder_that_cannot_be_written(scene: tuple[CocoAnnotations, Results, list[Results]], tmp_path: Path) -> None:
    annotations, fused, _ = scene
    with pytest.raises(UserError, match=r"report\.html"):
        write_report(Report(annotations, evaluation(annotations, fused, [fused])), tmp_path / "none" / "report.html")
