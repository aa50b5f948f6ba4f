"""Precision, recall, errors, confusion: by pycocotools' matches, or on a picture small enough to count by hand."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.evaluation.analysis import Point, analyze, numbers_of
from detection.evaluation.coco_metrics import Rules, evaluate, evaluation_of
from detection.evaluation.intervals import compare, drawn_aps, interval_of, random_draws
from detection.evaluation.matches import match
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


def test_errors_are_the_same_beside_a_crowd_that_nothing_touches(tmp_path: Path) -> None:
    """Without crowds the evaluation is not done a second time."""
    without, far = picture(), picture()
    *without["annotations"], crowd = without["annotations"]
    far["annotations"][-1] = {**crowd, "bbox": [900, 900, 50, 50], "area": 2500}
    evaluations = []
    for data in (without, far):
        annotations = load(tmp_path, data)
        results = columns(tmp_path, ALL[1:], annotations)
        matches = match(annotations, results)
        with patch("detection.evaluation.analysis.evaluation_of", wraps=evaluation_of) as calls:
            evaluations.append(analyze(annotations, results, matches=matches).errors)
        assert calls.call_count == (1 if data is without else 2)  # one for the confusion
    assert evaluations[0] == evaluations[1]


def test_a_box_that_is_little_in_a_crowd_is_background(tmp_path: Path) -> None:
    """Three sevenths of it are in the crowd, and its IoU with it is 0.3: TIDE knows no crowds."""
    annotations = load(tmp_path, picture())
    analysis = analyze(annotations, columns(tmp_path, [found(1, [150, CROWD, 350, 300], 0.9)], annotations))
    counts = {one.kind: one.count for one in analysis.errors if one.count}
    assert counts == {"background": 1, "missed": 5}


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
    listed = [(one["kind"], one["found"], one.get("annotated"), one["score"], one["image_id"]) for one in numbers]
    assert listed == [("wrong label", "dog", "cat", 0.6, 7), ("missing label", "dog", None, 0.5, 7)]


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
    assert [*class_table(analysis), *error_lines(analysis)][2] == " 2 classes without objects not listed"
    assert (analysis.calibration, analysis.label_errors) == ([], [])  # a test set's labels are not missing, but unknown
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


def test_confusion_counts_more_than_100_detections_of_an_image(tmp_path: Path) -> None:
    entries = [(label, [10 * x, 100 * label, 9, 9]) for label in (1, 2) for x in range(80)]
    truth = picture() | {
        "annotations": [
            {"id": i, "image_id": 7, "category_id": label, "bbox": box, "area": 81, "iscrowd": 0}
            for i, (label, box) in enumerate(entries)
        ]
    }
    annotations = load(tmp_path, truth)
    results = columns(tmp_path, [found(*entry, 0.9) for entry in entries], annotations)
    assert analyze(annotations, results).confusion.tolist() == [[80, 0, 0], [0, 80, 0], [0, 0, 0]]


def test_scores_of_another_scale_have_no_calibration(tmp_path: Path) -> None:
    annotations = load(tmp_path, picture())
    own = analyze(annotations, columns(tmp_path, ALL, annotations))
    hundredfold = [{**one, "score": 100 * one["score"]} for one in ALL]
    analysis = analyze(annotations, columns(tmp_path, hundredfold, annotations))
    assert np.isnan(analysis.ece)
    assert (analysis.calibration, analysis.label_errors) == ([], [])
    assert [one.AP for one in analysis.classes] == [one.AP for one in own.classes]
    assert (analysis.errors, analysis.confusion.tolist()) == (own.errors, own.confusion.tolist())
    assert "calibration: not known" in "".join(error_lines(analysis))


@pytest.mark.parametrize("seed", range(3))
def test_ap_of_drawn_images_is_that_of_a_data_set_that_repeats_them(tmp_path: Path, seed: int) -> None:
    truth, results = random_set(seed)
    for number, entry in enumerate(results):
        entry["score"] += number * 1e-4  # equal scores of an image's detections would be ranked otherwise
    annotations = load(tmp_path, truth)
    draws = random_draws(len(truth["images"]))[:5]
    assert draws[0].tolist() == [1] * 41
    assert (draws.sum(1) == 41).all()
    assert (draws[1:] > 1).any(1).all()
    aps = drawn_aps(annotations, columns(tmp_path, results, annotations), draws, 100).mean(2)
    for times, own in zip(draws, aps, strict=True):
        copies = [(image["id"], copy) for image, n in zip(truth["images"], times, strict=True) for copy in range(n)]
        numbers = {pair: number for number, pair in enumerate(sorted(copies), 1)}
        boxes, found_there = (
            [{**one, "image_id": numbers[pair]} for pair in copies for one in entries if one["image_id"] == pair[0]]
            for entries in (truth["annotations"], results)
        )
        images = [{"id": number} for number in numbers.values()]
        expected = reference({**truth, "images": images, "annotations": boxes}, found_there)[1]
        np.testing.assert_allclose(own, np.array(expected, float), rtol=1e-12)


def test_interval(tmp_path: Path) -> None:
    """The mean of the classes in each draw, of which 2.5 % lie on either side, turned round at the AP."""
    truth, results = random_set(5)
    annotations = load(tmp_path, truth)
    own = columns(tmp_path, results, annotations)
    draws = random_draws(41)
    means = np.nanmean(drawn_aps(annotations, own, draws, 11), (1, 2))
    interval = interval_of(annotations, own, 11)
    assert interval.value == pytest.approx(evaluate(annotations, own, Rules(max_dets=11))["AP"])
    low, high = np.quantile(means[1:], (0.025, 0.975))
    assert (interval.low, interval.high) == pytest.approx((2 * means[0] - high, 2 * means[0] - low))
    assert interval.low < interval.value < interval.high
    # An object in each of three images, one found: the AP is the share of draws that have it
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 99, "height": 99} for i in (1, 2, 3)]
    objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": [9, 9, 9, 9], "area": 81} for i in (1, 2, 3)]
    annotations = load(tmp_path, {**picture(), "images": images, "annotations": objects})
    own = columns(tmp_path, [{**found(1, [9, 9, 9, 9], 0.5), "image_id": 2}], annotations)
    draws = random_draws(3)
    recalls = np.floor(100 * draws[:, 1] / 3) + (draws[:, 1] > 0)  # hundredths of recall that are reached, with 0
    np.testing.assert_allclose(drawn_aps(annotations, own, draws, 100)[:, 0, 0], recalls / 101)


def test_interval_without_objects_or_detections(tmp_path: Path) -> None:
    annotations = load(tmp_path, picture())
    nothing = columns(tmp_path, [], annotations)
    assert interval_of(annotations, nothing) == (0, 0, 0)
    annotations = load(tmp_path, {**picture(), "annotations": []})
    assert interval_of(annotations, nothing).numbers() == {"value": None, "low": None, "high": None}
    comparison = compare(annotations, nothing, columns(tmp_path, ALL, annotations))
    assert comparison.numbers()["differences"] == {}
    assert list(comparison_table(comparison, "theirs.json")) == [" compared with theirs.json: nothing, without objects"]


def test_comparison(tmp_path: Path) -> None:
    truth, results = random_set(2)
    annotations = load(tmp_path, truth)
    own = columns(tmp_path, results, annotations)
    same = compare(annotations, own, own)
    assert same.AP == same.AP50 == (0, 0, 0)
    assert set(same.differences.values()) == {(0, 0, 0)}
    half = columns(tmp_path, results[::2], annotations)
    other = compare(annotations, half, own)
    expected = evaluate(annotations, own)["AP"] - evaluate(annotations, half)["AP"]
    assert other.AP.value == pytest.approx(expected)
    assert other.AP.low < expected < other.AP.high
    per_class = evaluate(annotations, half)["per_class"]
    assert {name: pair[0] for name, pair in other.per_class.items()} == pytest.approx(
        {name: ap for name, ap in per_class.items() if ap is not None}
    )
    draws = random_draws(41)
    parts = [drawn_aps(annotations, one, draws, 100).mean(2) for one in (half, own)]
    assert set(other.differences) == set(other.per_class)
    for name in other.differences:
        gain = (parts[1] - parts[0])[:, annotations.names.index(name)]
        interval = (gain[0], *np.nanquantile(gain[1:], (0.025, 0.975)))
        np.testing.assert_allclose(other.differences[name], interval, atol=1e-12)
    assert len(list(comparison_table(other, "theirs.json"))) == 2 + len(other.per_class)


def test_classes_in_another_order_are_noticed(tmp_path: Path) -> None:
    annotations = load(tmp_path, picture())
    right = [found(1, [x, 0, 100, 100], 0.9) for x in CATS] + [found(2, [x, 0, 100, 100], 0.9) for x in DOGS]
    swapped = [entry | {"category_id": 3 - entry["category_id"]} for entry in right]
    line = "found as other classes: cat as dog (3 of 3), dog as cat (2 of 2); have the detections their class ids"
    for entries, said in ((right, False), (swapped, True), ([*right[:3], *swapped[3:]], True), (ALL, False)):
        lines = "".join(error_lines(analyze(annotations, columns(tmp_path, entries, annotations))))
        assert ("found as other classes" in lines) == said
        assert (line in lines) == (entries is swapped)


def test_scores_cut_off_by_a_threshold_are_noticed(tmp_path: Path) -> None:
    annotations = load(tmp_path, picture())
    for entries, said in ((ALL, True), ([*ALL, BOTH | {"score": 0.05}], False), ([], False)):
        lines = "".join(error_lines(analyze(annotations, columns(tmp_path, entries, annotations))))
        assert ("no score is below 0.1: AP is too low if a threshold has cut them off" in lines) == said
