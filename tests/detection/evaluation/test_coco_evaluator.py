"""Collecting detections image by image, and their results file."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from detection.data.coco_results import load_results, save_results
from detection.evaluation.coco_metrics import CocoEvaluator, evaluate
from tests.detection.evaluation.cases import load, random_set, written


def test_saved_results_score_the_very_same(tmp_path: Path) -> None:
    truth, results = random_set(7)
    annotations = load(tmp_path, truth)
    evaluator = CocoEvaluator(annotations)
    rng = np.random.default_rng(0)
    for image in annotations.images:
        own = [entry for entry in results if entry["image_id"] == image.id]
        if own:
            sides = np.array([entry["bbox"] for entry in own]) + rng.uniform(0, 0.01, (len(own), 4))
            boxes = np.concatenate([sides[:, :2], sides[:, :2] + sides[:, 2:]], axis=1).astype(np.float32)
            labels = [annotations.category_ids.index(entry["category_id"]) for entry in own]
            evaluator.add(image.id, boxes, rng.random(len(own)).astype(np.float32), labels)
    saved = tmp_path / "detections.json"
    save_results(evaluator.results(), annotations, saved)
    loaded = load_results(saved, annotations)
    assert evaluate(annotations, loaded) == evaluator.metrics()
    entries = json.loads(saved.read_text())
    assert len(loaded) == len(entries) > 100
    assert all(value == round(value, 2) for entry in entries for value in entry["bbox"])
    assert len(saved.read_text()) < 115 * len(entries)
    assert [entry["image_id"] for entry in entries] == [
        image.id for image in annotations.images for _ in range(len(evaluator.detections.get(image.id, [])))
    ]


def test_results_hold_category_ids_and_sides(tmp_path: Path) -> None:
    truth, _ = random_set(0)
    annotations = load(tmp_path, truth)
    evaluator = CocoEvaluator(annotations)
    evaluator.add(2**40 + 1, [[1.234, 2, 11.238, 22.5]], [0.1234567], [4])
    expected = {"image_id": 2**40 + 1, "category_id": 90, "bbox": [1.23, 2.0, 10.0, 20.5], "score": 0.123457}
    assert written(evaluator, tmp_path) == [expected]


def test_perfect_detections_score_one_and_a_repeated_image_counts_once(tmp_path: Path) -> None:
    truth, _ = random_set(1)
    for entry in truth["annotations"]:
        entry["iscrowd"] = 0
    annotations = load(tmp_path, truth)
    evaluator = CocoEvaluator(annotations)
    for _ in range(2):
        for image in annotations.images:
            evaluator.add(image.id, image.boxes, np.ones(len(image.boxes)), image.labels)
    metrics = evaluator.metrics()
    assert len(evaluator.results()) == len(truth["annotations"])
    assert metrics["AP"] == pytest.approx(1)
    evaluator.add(annotations.images[0].id, np.zeros((0, 4)), [], [])
    assert len(evaluator.results()) == len(truth["annotations"]) - len(annotations.images[0].boxes)


def test_add_refuses_what_cannot_be_scored(tmp_path: Path) -> None:
    evaluator = CocoEvaluator(load(tmp_path, random_set(0)[0]))
    known = 2**40 + 1
    with pytest.raises(KeyError, match="image id 5 is not in"):
        evaluator.add(5, [[0, 0, 1, 1]], [0.5], [0])
    with pytest.raises(ValueError, match="not finite"):
        evaluator.add(known, [[0, 0, math.nan, 1]], [0.5], [0])
    with pytest.raises(ValueError, match="not finite"):
        evaluator.add(known, [[0, 0, 1, 1]], [math.inf], [0])
    with pytest.raises(ValueError, match="labels outside 0 to 4"):
        evaluator.add(known, [[0, 0, 1, 1]], [0.5], [5])
    with pytest.raises(ValueError, match="1 boxes, 2 scores, 1 labels"):
        evaluator.add(known, [[0, 0, 1, 1]], [0.5, 0.6], [0])
