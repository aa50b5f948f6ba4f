"""Annotations in the label space of a model, by the names of its classes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.data.annotations import CocoAnnotations
from detection.data.category_match import match_categories
from detection.data.coco import load_annotations
from detection.data.coco_results import load_results, save_results
from detection.data.prepare import read_splits
from detection.evaluation.coco_metrics import CocoEvaluator, evaluate, verify
from detection.settings import DataSettings
from divdet.engine.errors import UserError

MODEL = ([1, 2, 5], ["box", "disc", "ring"])
BOX, DISC, RING = [1, 2, 30, 40], [20, 10, 40, 30], [50, 50, 20, 20]


def annotations(folder: Path, **ids: int) -> CocoAnnotations:
    """One image of one object of each class, by its name's id; the object of the first at BOX, then DISC, RING."""
    entries = [
        {"id": 70 + row, "image_id": 4, "category_id": number, "bbox": box}
        for row, (number, box) in enumerate(zip(ids.values(), (BOX, DISC, RING), strict=False))
    ]
    data = {
        "images": [{"id": 4, "file_name": "a.jpg", "width": 100, "height": 90}],
        "annotations": entries,
        "categories": [{"id": number, "name": name.replace("_", " ")} for name, number in ids.items()],
    }
    (folder / "truth.json").write_text(json.dumps(data))
    return load_annotations(folder / "truth.json", None)


def test_the_same_categories_change_nothing(tmp_path: Path) -> None:
    given = annotations(tmp_path, box=1, disc=2, ring=5)
    assert match_categories(*MODEL, given) is given


def test_other_ids_and_fewer_classes(tmp_path: Path) -> None:
    given = annotations(tmp_path, ring=1, box=2)
    found = match_categories(*MODEL, given)
    assert (found.category_ids, found.names) == ([2, None, 1], MODEL[1])
    assert found.truth.label.tolist() == [2, 0]
    assert found.images[0].labels.tolist() == [2, 0]
    assert given.truth.label.tolist() == [0, 1]
    assert "2 categories matched by name, whose ids are others than the model's" in found.describe()
    assert "1 classes of the model that the file does not list" in found.describe()


def test_classes_of_the_file_alone_are_listed(tmp_path: Path) -> None:
    given = annotations(tmp_path, box=1, Disc=2, star=3)
    expected = r"2 of its 3 categories are not among the model's 3 \('box', 'disc', 'ring'\): 'Disc', 'star'; rename"
    with pytest.raises(UserError, match=expected) as error:
        match_categories(*MODEL, given)
    assert str(error.value).startswith(str(tmp_path / "truth.json"))


def test_names_that_repeat_are_told_apart_by_id(tmp_path: Path) -> None:
    given = annotations(tmp_path, box=1, disc=2)
    given.names = ["box", "box"]
    assert match_categories([2, 1], ["box", "box"], given).category_ids == [2, 1]
    with pytest.raises(UserError, match="'box'"):
        match_categories([2, 3], ["box", "box"], given)


def test_names_that_are_almost_the_same_are_noted(tmp_path: Path) -> None:
    """VOC files of several people often have both: each would get a part of the objects."""
    given = annotations(tmp_path, Stop_sign=1, disc=2, **{"stop-sign": 3})
    assert "2 class names that differ in case, spaces, - or _ alone" in given.describe()
    assert "which stay separate ('Stop sign', 'stop-sign')" in given.describe()
    assert "differ" not in annotations(tmp_path, disc=1, disc2=2, discs=3).describe()
    assert "differ" not in annotations(tmp_path, A=1, a=2).describe()  # letters to read


def test_results_carry_the_files_ids_and_score_the_same_again(tmp_path: Path) -> None:
    """A detection of a class that the file does not list has no id there; no number depends on it."""
    given = annotations(tmp_path, ring=1, box=2)
    evaluator = CocoEvaluator(match_categories(*MODEL, given))
    boxes = [[1, 2, 31, 42], [20, 10, 60, 41], [50, 50, 70, 70]]
    evaluator.add(4, boxes, [0.9, 0.8, 0.7], [2, 0, 1])
    metrics, results = evaluator.metrics(), evaluator.results()
    verify(evaluator.annotations, results, metrics)
    save_results(results, evaluator.annotations, tmp_path / "detections.json")
    entries = json.loads((tmp_path / "detections.json").read_text())
    assert [entry["category_id"] for entry in entries] == [1, 2]
    again = evaluate(given, load_results(tmp_path / "detections.json", given))
    assert metrics["AP"] > 0.5
    assert {key: value for key, value in again.items() if key != "per_class"} == {
        key: value for key, value in metrics.items() if key != "per_class"
    }
    assert metrics["per_class"] == again["per_class"] | {"disc": None}
    save_results(load_results(tmp_path / "detections.json", given), given, tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == entries


def test_training_matches_its_validation_and_makes_one_image_of_a_file(tmp_path: Path) -> None:
    for split, ids in (("train", (1, 2)), ("val", (8, 5))):
        (tmp_path / split).mkdir()
        noise = np.random.default_rng(ids[0]).integers(0, 256, (90, 100, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / split / "a.png")
        entries = [
            {"id": row, "image_id": row, "category_id": ids[row], "bbox": box} for row, box in enumerate((BOX, DISC))
        ]
        data = {
            "images": [{"id": row, "file_name": "a.png", "width": 100, "height": 90} for row in range(2)],
            "annotations": entries,
            "categories": [{"id": number, "name": name} for number, name in zip(ids, ("box", "disc"), strict=True)],
        }
        (tmp_path / f"{split}.json").write_text(json.dumps(data))
    names = {f"{split}_annotations": str(tmp_path / f"{split}.json") for split in ("train", "val")}
    folders = {f"{split}_images": str(tmp_path / split) for split in ("train", "val")}
    training, validation = read_splits(DataSettings(**names, **folders))
    assert [image.boxes.tolist() for image in training.images] == [[[1, 2, 31, 42], [20, 10, 60, 40]]]
    assert training.category_ids == [1, 2]
    assert [image.id for image in validation.images] == [0, 1]
    assert validation.truth.label.tolist() == [0, 1]
    assert validation.category_ids == [8, 5]
