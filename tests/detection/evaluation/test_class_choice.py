"""Evaluation of some classes, against pycocotools and results files that hold these alone."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch

from detection.boxes import ClassRules
from detection.data.category_match import match_categories
from detection.data.coco import load_annotations
from detection.data.coco_results import load_results
from detection.evaluation.class_choice import choose_results, choose_truth
from detection.prediction_settings import PostprocessSettings
from divdet.commands import COMMANDS
from divdet.engine.errors import UserError


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Path]:
    """Two images with a cat and a dog each; the cats are found, and one dog, and each cat also as a dog."""
    boxes = {"cat": [10, 10, 30, 30], "dog": [50, 50, 40, 40]}
    ids = {"cat": 17, "dog": 18, "bird": 3}
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 100} for n in (1, 2)]
    entries = [
        {"id": 2 * n + k, "image_id": n, "category_id": ids[name], "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for n in (1, 2)
        for k, (name, box) in enumerate(boxes.items())
    ]
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    truth = {"images": images, "annotations": entries, "categories": categories}
    found = [
        {"image_id": n, "category_id": ids[name], "bbox": boxes[where], "score": score}
        for n in (1, 2)
        for name, where, score in (("cat", "cat", 0.9), ("dog", "cat", 0.8), ("dog", "dog", 0.7), ("bird", "dog", 0.6))
        if (n, name, where) != (2, "dog", "dog")
    ]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(found))
    return tmp_path / "truth.json", tmp_path / "found.json"


def numbers(case: tuple[Path, Path], output: Path, *words: str) -> dict:
    truth, found = map(str, case)
    command = COMMANDS["eval-det"]
    where = ["--detections", found, "--data.val_annotations", truth, "--output", str(output)]
    command.call(command.parse([*where, *words]))
    return json.loads((output / "metrics.json").read_text())


def test_other_classes_do_not_count(case: tuple[Path, Path], tmp_path: Path) -> None:
    everything = numbers(case, tmp_path / "all")
    assert everything["per_class"]["cat"] == 1
    assert 0 < everything["per_class"]["dog"] < 0.6
    cats = numbers(case, tmp_path / "cat", "--classes", "cat", "--verify", "true")
    assert cats["AP"] == cats["AR100"] == 1
    assert cats["per_class"] == {"bird": None, "cat": 1, "dog": None}
    assert numbers(case, tmp_path / "both", "--classes", "17,18")["AP"] == pytest.approx(everything["AP"])
    with pytest.raises(UserError, match="did you mean cat"):
        numbers(case, tmp_path / "x", "--classes", "cats")


def test_thresholds_by_class(case: tuple[Path, Path], tmp_path: Path) -> None:
    found = numbers(case, tmp_path / "out", "--class_thresholds", '{"dog": 0.75, "cat": 0.9}')
    assert found["per_class"] == {"bird": None, "cat": 1, "dog": 0}
    with pytest.raises(UserError, match="leave out --tile"):
        numbers(case, tmp_path / "x", "--tile", "300")


def test_numbers_are_written_before_they_are_printed(case: tuple[Path, Path], tmp_path: Path) -> None:
    """As behind ``| head -3``: what prints ends the run once nobody reads."""

    class Head(io.StringIO):
        def write(self, text: str) -> int:
            if "Average" in text:
                raise BrokenPipeError
            return len(text)

    with pytest.raises(BrokenPipeError), redirect_stdout(Head()):
        numbers(case, tmp_path / "out", "--compare", str(case[1]))
    written = json.loads((tmp_path / "out/metrics.json").read_text())
    assert written["comparison"]["AP"]["value"] == 0


def test_rules_of_a_detector_whose_labels_differ(case: tuple[Path, Path]) -> None:
    names, ids = ["dog", "cat", "bird"], [1, 2, 3]
    annotations = match_categories(ids, names, load_annotations(case[0], None))
    rules = ClassRules.of(PostprocessSettings(classes="cat"), names, ids)
    assert rules.kept.tolist() == [False, True, False]
    chosen = choose_truth(annotations, rules)
    assert {annotations.names[label] for label in chosen.truth.label.tolist()} == {"cat"}
    assert [record.labels.tolist() for record in chosen.images] == [[1], [1]]
    assert len(annotations.truth.label) == 4  # as it was
    assert choose_truth(annotations, ClassRules()) is annotations


def test_scores_are_compared_as_they_are_written(case: tuple[Path, Path]) -> None:
    annotations = load_annotations(case[0], None)
    results = load_results(case[1], annotations)
    rules = ClassRules(thresholds=torch.tensor([0.6, 0.9, 0.7], dtype=torch.float64))
    assert len(choose_results(results, rules)) == len(results)
    kept = choose_results(results, ClassRules(thresholds=torch.tensor([0.0, 0, 0.75])))
    assert sorted(kept.score.tolist()) == [0.6, 0.6, 0.8, 0.8, 0.9, 0.9]  # without the dogs of 0.7
