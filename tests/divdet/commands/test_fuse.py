"""The fuse command against ensemble-boxes and pycocotools, by hand on a small case, and on files that do not fit."""

import contextlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import ensemble_boxes
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import divdet
from detection.evaluation.coco_metrics import METRICS
from divdet.commands import COMMANDS
from divdet.engine.errors import UserError

Entry = dict[str, Any]


def result(image: int, category: int, bbox: list[float], score: float) -> Entry:
    return {"image_id": image, "category_id": category, "bbox": bbox, "score": score}


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Two images, of 100 x 200 and 200 x 100, with one object each, of the classes 3 and 7."""
    images = [{"id": 11, "file_name": "a.jpg", "width": 100, "height": 200},
              {"id": 5, "file_name": "b.jpg", "width": 200, "height": 100}]  # fmt: skip
    objects = [(11, 3, [10, 20, 40, 100]), (5, 7, [100, 10, 50, 50])]
    annotations = [
        {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, (image, category, box) in enumerate(objects, 1)
    ]
    categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def write(folder: Path, **files: list[Entry]) -> list[Path]:
    for name, entries in files.items():
        (folder / f"{name}.json").write_text(json.dumps(entries))
    return [folder / f"{name}.json" for name in files]


GOOD = [result(11, 3, [10, 20, 40, 100], 0.8), result(5, 7, [100, 10, 50, 50], 0.9)]
MOVED = [result(11, 3, [14, 20, 40, 100], 0.4)]


def test_by_hand(truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    files = write(tmp_path, good=GOOD, moved=MOVED)
    metrics = divdet.fuse_results(truth, files, weights=[1, 1], output=tmp_path / "out")
    fused = json.loads((tmp_path / "out/fused.json").read_text())
    # The cat: x = (0.8 * 10 + 0.4 * 14) / 1.2, scores averaged. The dog was found by one of two: half its score.
    assert [(entry["image_id"], entry["category_id"]) for entry in fused] == [(11, 3), (5, 7)]
    np.testing.assert_allclose(fused[0]["bbox"], [34 / 3, 20, 40, 100], rtol=1e-6)
    np.testing.assert_allclose(fused[1]["bbox"], [100, 10, 50, 50], rtol=1e-6)
    np.testing.assert_allclose([entry["score"] for entry in fused], [0.6, 0.45], rtol=1e-6)
    # IoU of the fused cat is 38.67 / 41.33 = 0.935: right at 9 of the 10 thresholds; of the moved one 36 / 44 = 0.818
    assert metrics["AP"] == pytest.approx((0.9 + 1) / 2)
    assert [member["AP"] for member in metrics["members"]] == pytest.approx([1, 0.7 / 2])
    assert [member["weight"] for member in metrics["members"]] == [1, 1]
    assert metrics["fusion"]["method"] == "wbf"
    printed = capsys.readouterr().out
    assert "moved.json has no detection for 1 of 2 images for which others have some (b.jpg)" in printed
    assert "moved.json has no detection for 1 of 2 classes for which others have some (dog)" in printed
    rows = [line.split() for line in printed.splitlines() if line.startswith(("good", "moved", "fused"))]
    assert [[row[0], row[1], row[5]] for row in rows] == [
        ["good.json", "1.000", "1.000"], ["moved.json", "0.350", "0.500"], ["fused", "0.950", "1.000"]
    ]  # fmt: skip
    assert metrics["gain"]["over"].endswith("good.json")
    assert metrics["gain"]["value"] == pytest.approx(-0.05)
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics


def by_library(truth: dict, files: list[Path], function: Any, **settings: Any) -> list[Entry]:
    """What ensemble-boxes makes of results files."""
    members, fused = [json.loads(path.read_text()) for path in files], []
    for image in truth["images"]:
        size = np.array([image["width"], image["height"]] * 2)
        own = [[entry for entry in member if entry["image_id"] == image["id"]] for member in members]
        boxes = [np.array([entry["bbox"] for entry in entries]).reshape(-1, 4) for entries in own]
        boxes = [np.concatenate((member[:, :2], member[:, :2] + member[:, 2:]), axis=1) / size for member in boxes]
        columns = ([np.array([entry[key] for entry in entries]) for entries in own] for key in ("score", "category_id"))
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            found = function(boxes, *columns, **settings) if sum(map(len, own)) else ([], [], [])
        for box, score, category in zip(*found, strict=True):
            x1, y1, x2, y2 = (box * size).tolist()
            fused.append(result(image["id"], int(category), [x1, y1, x2 - x1, y2 - y1], float(score)))
    return fused


@pytest.mark.parametrize(
    ("method", "weights", "function"),
    [
        ("wbf", None, ensemble_boxes.weighted_boxes_fusion),
        ("wbf", [2, 1], ensemble_boxes.weighted_boxes_fusion),
        ("nms", [2, 1], ensemble_boxes.nms),
        ("nmw", None, ensemble_boxes.non_maximum_weighted),
    ],
)
def test_equals_ensemble_boxes_and_pycocotools(
    method: str, weights: list[float] | None, function: Any, shared: Path, tmp_path: Path
) -> None:
    fixture = shared / "data/coco_eval_fixture"
    path, first = fixture / "instances_val2014_100.json", fixture / "instances_val2014_fakebbox100_results.json"
    rng = np.random.default_rng(0)
    entries = [entry for entry in json.loads(first.read_text()) if rng.random() > 0.1]
    for entry in entries:  # a copy, moved and less sure
        sides = np.array(entry["bbox"][2:] * 2)
        entry["bbox"] = (entry["bbox"] + rng.normal(0, 0.05, 4) * sides).clip(1).tolist()
        entry["score"] *= rng.uniform(0.7, 1)
    files = [first, *write(tmp_path, second=entries)]
    with contextlib.redirect_stdout(io.StringIO()):
        ours = divdet.fuse_results(path, files, weights=weights, method=method, iou_thr=0.6, output=tmp_path / "out")
        coco = COCO(str(path))
        theirs = by_library(coco.dataset, files, function, weights=weights, iou_thr=0.6)
        for entries in (theirs, json.loads((tmp_path / "out/fused.json").read_text())):
            evaluation = COCOeval(coco, coco.loadRes(entries), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            assert [ours[name] for name in METRICS] == evaluation.stats.tolist()
    assert 0.3 < ours["AP"] < 0.6


def test_weights_by_ap(truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    files = write(tmp_path, good=GOOD, moved=MOVED)
    metrics = divdet.fuse_results(truth, files, weights="ap", output=tmp_path / "out")
    assert [member["weight"] for member in metrics["members"]] == pytest.approx([1, 0.35])
    assert "optimistic: on other images, give --weights 1.0000,0.3500" in capsys.readouterr().out


@pytest.mark.parametrize("calibrate", ["rank", "precision"])
def test_calibration_frees_from_the_scale(calibrate: str, truth: Path, tmp_path: Path) -> None:
    """Any order-keeping change of a file's scores leaves the fused results as they are."""
    entries = [*GOOD, result(11, 3, [60, 10, 20, 20], 0.1), result(5, 3, [0, 0, 30, 30], 0.85)]
    logits = [entry | {"score": float(np.log(entry["score"] / (1 - entry["score"])))} for entry in entries]
    outputs = []
    for form in (entries, logits):
        files = write(tmp_path, first=form, second=MOVED)
        divdet.fuse_results(truth, files, calibrate=calibrate, output=tmp_path / "out")
        outputs.append(json.loads((tmp_path / "out/fused.json").read_text()))
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            [result(11, 3, [10, 20, 40, 100], 98.0)],
            r"second\.json: has scores .*98, which look like percent",
        ),
        ([result(11, 3, [10, 20, 40, 100], 870.0)], "which look like thousandths"),
        ([result(11, 3, [10, 20, 40, 100], -3.5)], "which look like logits"),
        ([result(12, 3, [10, 20, 40, 100], 0.5)], r"second\.json: .* image_id 12, which .*truth\.json does not list"),
        ([result(11, 0, [10, 20, 40, 100], 0.5)], "category_id 0, which .* does not list; use its category ids"),
        ([result(11, 3, [0.1, 0.1, 0.4, 0.5], 0.5)] * 3, r"second\.json: has boxes that look like fractions"),
        ([result(11, 3, [60, 120, 95, 190], 0.5)] * 3, r"second\.json: has boxes that look like x1, y1, x2, y2"),
        ({"annotations": []}, r"second\.json"),
    ],
)
def test_refuses_what_does_not_fit(second: Any, message: str, truth: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        divdet.fuse_results(truth, write(tmp_path, good=GOOD, second=second), output=tmp_path / "out")
    assert not (tmp_path / "out/fused.json").exists()


def test_images_without_a_size(truth: Path, tmp_path: Path) -> None:
    files = write(tmp_path, good=GOOD, moved=MOVED)
    expected = divdet.fuse_results(truth, files, output=tmp_path / "out")
    content = json.loads(truth.read_text())
    del content["images"][0]["width"]
    truth.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"1 of 2 images have no width and height, the first a\.jpg: .* --images"):
        divdet.fuse_results(truth, files, output=tmp_path / "out")
    for name, size in (("a.jpg", (100, 200)), ("b.jpg", (200, 100))):
        Image.new("RGB", size).save(tmp_path / name)
    assert divdet.fuse_results(truth, files, images=tmp_path, output=tmp_path / "out") == expected
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"a\.jpg: "):
        divdet.fuse_results(truth, files, images=tmp_path, output=tmp_path / "out")


def test_files_from_python(truth: Path, tmp_path: Path) -> None:
    (good,) = write(tmp_path, good=GOOD)
    with pytest.raises(UserError, match=r"good\.json': give a list of two or more files"):
        divdet.fuse_results(truth, str(good))
    assert divdet.evaluate(good, data={"val_annotations": truth}, output=tmp_path / "out")["AP"] == pytest.approx(1)


def test_nothing_annotated(truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """As in a test set: files are fused, and nothing is said of what it brings."""
    content = json.loads(truth.read_text()) | {"annotations": []}
    truth.write_text(json.dumps(content))
    files = write(tmp_path, good=GOOD, moved=MOVED)
    metrics = divdet.fuse_results(truth, files, output=tmp_path / "out")
    assert metrics["gain"]["value"] is None
    assert len(json.loads((tmp_path / "out/fused.json").read_text())) == 2
    printed = capsys.readouterr().out
    assert "nan" not in printed
    assert "no objects are annotated, which would tell what the fusion brings" in printed
    del content["annotations"]
    truth.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"it has no annotations; if there are none, .* add \"annotations\": \[\]"):
        divdet.fuse_results(truth, files, output=tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "2,1,1"], "3 for 2 results files: give one for each"),
        (["--weights", "2;1"], "weights is '2;1': give numbers such as 2,1, or ap"),
        (["--weights", "0,0"], "one of them above 0"),
        (["--method", "median"], "method"),
        (["--iou_thr", "55"], "iou_thr is 55"),
    ],
)
def test_bad_options(words: list[str], message: str, tmp_path: Path) -> None:
    files = map(str, write(tmp_path, good=GOOD, moved=MOVED))
    with pytest.raises(UserError, match=message):
        COMMANDS["fuse"].parse([*files, "--annotations", "truth.json", *words])


def test_files_without_detections(truth: Path, tmp_path: Path) -> None:
    files = write(tmp_path, good=GOOD, nothing=[])
    assert divdet.fuse_results(truth, files, output=tmp_path / "out")["AP"] == pytest.approx(1)
    files = write(tmp_path, none=[], nothing=[])
    assert divdet.fuse_results(truth, files, output=tmp_path / "out")["AP"] == 0
    with pytest.raises(UserError, match="give two or more to fuse"):
        divdet.fuse_results(truth, files[:1], output=tmp_path / "out")
