"""Precision, recall, errors, confusion: by pycocotools' matches, or on a picture small enough to count by hand."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.evaluation.analysis import Point, analyze, numbers_of
from detection.evaluation.coco_metrics import Rules, evaluate
from detection.evaluation.intervals import compare, interval_of
from detection.evaluation.tables import class_table, comparison_table, error_lines
from tests.detection.evaluation.cases import columns, load, random_set, reference

# A 1,000 pixels wide picture of squares of 100 pixels. Class 1 is a cat, class 2 a dog.
CATS, DOGS, CROWD = [0, 200, 400], [600, 800], 300


def picture() -> dict:
    objects = [(1, [x, 0, 100, 100], 0) for x in CATS] + [(2, [x, 0, 100, 100], 0) for x in DOGS]
    objects.append((1, [0, CROWD, 300, 300], 1))
    return {
        "images": [{"id": 7, "file_name": "7.jpg", "width": 1000, "height": 1000}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
            for i, (c, box, crowd) in enumerate(objects, 1)
        ],
    }


def found(category: int, box: list[float], score: float) -> dict:
    return {"image_id": 7, "category_id": category, "bbox": box, "score": score}


RIGHT, TWICE = found(1, [0, 0, 100, 100], 0.9), found(1, [0, 0, 100, 90], 0.8)
PLACED = found(1, [200, 70, 100, 100], 0.7)  # IoU 30 / 170
CLASS = found(2, [400, 0, 100, 100], 0.6)
BACKGROUND = found(2, [0, 900, 50, 50], 0.5)
BOTH = found(1, [600, 60, 100, 100], 0.4)  # IoU 40 / 160 with a dog
IN_CROWD = found(1, [100, CROWD + 100, 50, 50], 0.95)
ALL = [IN_CROWD, RIGHT, TWICE, PLACED, CLASS, BACKGROUND, BOTH]


def test_kinds_of_errors_and_their_cost(tmp_path: Path) -> None:
    """The AP50 that a kind costs is what pycocotools gives when these detections are put right or left out."""
    annotations = load(tmp_path, picture())
    analysis = analyze(annotations, columns(tmp_path, ALL, annotations))
    counts = {one.kind: one.count for one in analysis.errors}
    assert counts == {
        "wrong class": 1,
        "badly placed": 1,
        "wrong class and badly placed": 1,
        "found twice": 1,
        "background": 1,
        "missed": 2,  # both dogs: a box of another class and place does not tell of them (TIDE, Sec. 2.2)
    }
    without = {
        "wrong class": [one if one is not CLASS else {**CLASS, "category_id": 1} for one in ALL],
        "badly placed": [one if one is not PLACED else {**PLACED, "bbox": [200, 0, 100, 100]} for one in ALL],
        "wrong class and badly placed": [one for one in ALL if one is not BOTH],
        "found twice": [one for one in ALL if one is not TWICE],
        "background": [one for one in ALL if one is not BACKGROUND],
    }
    base = reference(picture(), ALL)[0][1]
    for kind, results in without.items():
        gain = reference(picture(), results)[0][1] - base
        assert next(one.AP50 for one in analysis.errors if one.kind == kind) == pytest.approx(gain, abs=1e-9), kind
    assert sum(one.AP50 for one in analysis.errors) > 0.1


def test_confusion_counts_objects_by_what_was_found_there(tmp_path: Path) -> None:
    annotations = load(tmp_path, picture())
    analysis = analyze(annotations, columns(tmp_path, ALL, annotations), threshold=0.45)
    # cat found, cat taken for a dog, cat missed; two dogs missed; boxes where nothing is: a second one on the first
    # cat, the badly placed one; the background. What lies in the crowd is neither.
    assert analysis.confusion.tolist() == [[1, 1, 1], [0, 0, 2], [2, 1, 0]]
    lower = analyze(annotations, columns(tmp_path, ALL, annotations), threshold=0.0)
    assert lower.confusion.tolist() == [[1, 1, 1], [0, 0, 2], [3, 1, 0]]


def test_points_by_hand(tmp_path: Path) -> None:
    annotations = load(tmp_path, picture())
    cat, dog = analyze(annotations, columns(tmp_path, ALL, annotations), threshold=0.75).classes
    assert cat.best == Point(0.9, 1.0, 1 / 3, 0.5)
    assert cat.given == Point(0.75, 0.5, 1 / 3, 0.4)
    assert dog.best is None  # none is right
    assert dog.given[2:] == (0.0, 0.0)
    assert np.isnan(dog.given.precision)
    assert (cat.objects, dog.objects) == (3, 2)


@pytest.mark.parametrize("seed", range(3))
def test_points_equal_pycocotools_matches(tmp_path: Path, seed: int) -> None:
    truth, results = random_set(seed)
    annotations = load(tmp_path, truth)
    analysis = analyze(annotations, columns(tmp_path, results, annotations), threshold=0.5)
    coco = COCO()
    coco.dataset = {**truth, "annotations": [{**one, "id": i} for i, one in enumerate(truth["annotations"], 1)]}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
    by_class: dict[int, list[tuple[float, bool]]] = {number: [] for number in annotations.category_ids}
    for one in evaluation.evalImgs:
        if one is not None and one["aRng"] == [0, 1e10]:
            counted = ~one["dtIgnore"][0].astype(bool)
            matched = one["dtMatches"][0] > 0
            scored = zip(np.array(one["dtScores"])[counted], matched[counted], strict=True)
            by_class[one["category_id"]] += scored
    for number, own in zip(annotations.category_ids, analysis.classes, strict=True):
        expected = {}
        for threshold in {score for score, _ in by_class[number]} | {0.5}:
            shown = [right for score, right in by_class[number] if score >= threshold]
            f1 = 2 * sum(shown) / (len(shown) + own.objects) if len(shown) + own.objects else float("nan")
            expected[threshold] = (np.mean(shown) if shown else float("nan"), f1)
        np.testing.assert_allclose((own.given.precision, own.given.f1), expected[0.5])
        if own.best:
            assert own.best.f1 == pytest.approx(max(f1 for _, f1 in expected.values()))
            np.testing.assert_allclose((own.best.precision, own.best.f1), expected[own.best.threshold])
        else:
            assert not any(right for _, right in by_class[number])
    per_class = reference(truth, results)[1]
    for own, ap in zip(analysis.classes, per_class, strict=True):
        assert (np.isnan(own.AP) and ap is None) or pytest.approx(ap, abs=1e-12) == own.AP


def test_calibration_is_the_mean_distance_of_score_and_precision(tmp_path: Path) -> None:
    annotations = load(tmp_path, picture())
    analysis = analyze(annotations, columns(tmp_path, ALL, annotations))
    # Each detection is alone in its bin, but for 0.9, with which COCO's bins begin
    distances = [0.1, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert analysis.ece == pytest.approx(np.mean(distances))
    assert sum(one.count for one in analysis.calibration) == 6


def test_labels_that_may_be_wrong(tmp_path: Path) -> None:
    annotations = load(tmp_path, picture())
    analysis = analyze(annotations, columns(tmp_path, ALL, annotations))
    numbers = numbers_of(analysis, annotations)["label_errors"]
    assert [(one["kind"], one["found"], one.get("annotated"), one["image_id"]) for one in numbers][:1] == [
        ("wrong label", "dog", "cat", 7)
    ]
    assert {one["kind"] for one in numbers} <= {"wrong label", "missing label"}


def test_no_detections_no_objects(tmp_path: Path) -> None:
    annotations = load(tmp_path, picture())
    analysis = analyze(annotations, columns(tmp_path, [], annotations), threshold=0.5)
    assert analysis.best is None
    assert np.isnan(analysis.ece)
    assert next(one.count for one in analysis.errors if one.kind == "missed") == 5
    assert analysis.confusion.tolist() == [[0, 0, 3], [0, 0, 2], [0, 0, 0]]
    annotations = load(tmp_path, {**picture(), "annotations": []})
    analysis = analyze(annotations, columns(tmp_path, ALL, annotations), threshold=0.5)
    assert all(np.isnan(one.AP) for one in analysis.classes)
    assert [*class_table(analysis), *error_lines(analysis)][2].split()[:5] == ["cat", "0", "–", "–", "–"]
    numbers_of(analysis, annotations)


def test_rules_change_what_is_small_and_how_many_count(tmp_path: Path) -> None:
    annotations = load(tmp_path, picture())
    results = columns(tmp_path, ALL, annotations)
    assert evaluate(annotations, results)["APs"] == -1  # 100 pixels are large
    own = evaluate(annotations, results, Rules(sizes=(101, 200)))
    assert own["APs"] == own["AP"] > 0
    many = [found(1, [900, 10 * i, 20, 20], 0.99) for i in range(100)] + [RIGHT]
    results = columns(tmp_path, many, annotations)
    assert evaluate(annotations, results)["AP50"] == 0
    assert evaluate(annotations, results, Rules(max_dets=101))["AP50"] > 0


def test_interval_is_that_of_a_plain_bootstrap(tmp_path: Path) -> None:
    truth, results = random_set(5)
    annotations = load(tmp_path, truth)
    interval = interval_of(annotations, columns(tmp_path, results, annotations))
    rng, drawn = np.random.default_rng(1), []
    by_image = {image["id"]: ([], []) for image in truth["images"]}
    for part, entries in enumerate((truth["annotations"], results)):
        for entry in entries:
            by_image[entry["image_id"]][part].append(entry)
    for _ in range(300):
        ids = rng.choice([image["id"] for image in truth["images"]], len(truth["images"]))
        parts: tuple[list, list] = ([], [])
        for number, image_id in enumerate(ids.tolist(), 1):
            for part in (0, 1):
                parts[part].extend({**entry, "image_id": number} for entry in by_image[image_id][part])
        images = [{"id": i, "file_name": f"{i}.jpg", "width": 800, "height": 800} for i in range(1, len(ids) + 1)]
        own = load(
            tmp_path, {**truth, "images": images, "annotations": [{**e, "id": i} for i, e in enumerate(parts[0])]}
        )
        drawn.append(evaluate(own, columns(tmp_path, parts[1], own))["AP"])
    low, high = np.quantile(drawn, (0.025, 0.975))
    assert interval.low == pytest.approx(low, abs=0.02)
    assert interval.high == pytest.approx(high, abs=0.02)
    assert (
        interval.low
        < interval.value
        == pytest.approx(evaluate(annotations, columns(tmp_path, results, annotations))["AP"])
    )


def test_comparison(tmp_path: Path) -> None:
    truth, results = random_set(2)
    annotations = load(tmp_path, truth)
    own = columns(tmp_path, results, annotations)
    same = compare(annotations, own, own)
    assert same.AP == same.AP50 == (0, 0, 0)
    half = columns(tmp_path, results[::2], annotations)
    other = compare(annotations, half, own)
    expected = evaluate(annotations, own)["AP"] - evaluate(annotations, half)["AP"]
    assert other.AP.value == pytest.approx(expected)
    assert other.AP.low < expected < other.AP.high
    per_class = evaluate(annotations, half)["per_class"]
    assert {name: pair[0] for name, pair in other.per_class.items()} == pytest.approx(
        {name: ap for name, ap in per_class.items() if ap is not None}
    )
    assert len(list(comparison_table(other, "theirs.json"))) == 2 + len(other.per_class)
