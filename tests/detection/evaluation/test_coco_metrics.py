"""The COCO numbers, against pycocotools and the COCO API's published ones."""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from detection.data.coco import load_annotations
from detection.data.coco_results import load_results
from detection.evaluation.coco_metrics import METRICS, CocoEvaluator, evaluate, format_metrics, verify
from divdet.engine.errors import UserError
from tests.detection.evaluation.cases import added, columns, load, random_set, reference, written

PUBLISHED = (0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564)


def test_published_numbers(shared: Path) -> None:
    folder = shared / "data/coco_eval_fixture"
    annotations = load_annotations(folder / "instances_val2014_100.json", None)
    path = folder / "instances_val2014_fakebbox100_results.json"
    entries = json.loads(path.read_text())
    metrics = evaluate(annotations, load_results(path, annotations))
    assert tuple(round(metrics[key], 3) for key in METRICS) == PUBLISHED
    assert metrics["images"] == 100
    numbers, per_class, printed = reference(json.loads(annotations.path.read_text()), entries)
    assert [metrics[key] for key in METRICS] == numbers
    assert list(metrics["per_class"].values()) == per_class
    assert format_metrics(metrics) + "\n" == printed
    assert added(annotations, entries).metrics() == metrics


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [30, 200])
def test_equals_pycocotools(tmp_path: Path, seed: int, scale: float) -> None:
    truth, results = random_set(seed, scale)
    annotations = load(tmp_path, truth)
    numbers, per_class, printed = reference(truth, results)
    metrics = evaluate(annotations, columns(tmp_path, results, annotations))
    assert [metrics[key] for key in METRICS] == numbers
    assert numbers[0] > 0.05
    assert list(metrics["per_class"].values()) == per_class
    assert metrics["per_class"]["thing 64"] is None
    assert metrics["images"] == 41
    assert format_metrics(metrics) + "\n" == printed
    assert added(annotations, results).metrics() == metrics


def test_images_and_categories_of_neighbouring_large_ids_stay_apart(tmp_path: Path) -> None:
    """Float32 merges the first two, float64 the next two."""
    image_ids, category_ids = [900_000_001, 900_000_002, 2**53, 2**53 + 1, 2**63 - 1], [2**53 + 1, 2**53, -3]
    rng = np.random.default_rng(0)
    entries = [
        {"image_id": image, "category_id": category, "bbox": [*rng.integers(0, 40, 2).tolist(), 30, 30]}
        for image in image_ids
        for category in category_ids
    ]
    truth = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 99, "height": 99} for i in image_ids],
        "categories": [{"id": i, "name": f"thing {i}"} for i in category_ids],
        "annotations": [{**entry, "id": n, "area": 900, "iscrowd": 0} for n, entry in enumerate(entries, 1)],
    }
    results = [{**entry, "score": score} for entry, score in zip(entries, rng.random(15).tolist(), strict=True)]
    annotations = load(tmp_path, truth)
    metrics = evaluate(annotations, columns(tmp_path, results, annotations))
    assert [metrics[key] for key in METRICS] == reference(truth, results)[0]
    assert metrics["AP"] == 1


def test_a_lone_true_positive_has_pycocotools_precision(tmp_path: Path) -> None:
    """1 / (1 + 2**-52): its sum of true and false ones is never zero."""
    truth, results = random_set(6)
    truth["annotations"], results = truth["annotations"][:1], [{**truth["annotations"][0], "score": 0.5}]
    truth["annotations"][0]["iscrowd"] = 0
    annotations = load(tmp_path, truth)
    metrics = evaluate(annotations, columns(tmp_path, results, annotations))
    assert [metrics[key] for key in METRICS] == reference(truth, results)[0]
    assert metrics["AP"] < 1


def test_of_equal_overlaps_the_later_object_is_taken(tmp_path: Path) -> None:
    """The first detection could take either object, the second only the later one, which is then gone."""
    objects, found = ([0, 0, 20, 10], [4, 0, 20, 10]), (([2, 0, 20, 10], 0.9), ([6, 0, 20, 10], 0.8))
    own = {"image_id": 1, "category_id": 1}
    truth = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 99, "height": 99}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{**own, "id": n, "bbox": box, "area": 200, "iscrowd": 0} for n, box in enumerate(objects, 1)],
    }
    results = [{**own, "bbox": box, "score": score} for box, score in found]
    annotations = load(tmp_path, truth)
    metrics = evaluate(annotations, columns(tmp_path, results, annotations))
    assert [metrics[key] for key in METRICS] == reference(truth, results)[0]
    assert metrics["AP75"] == pytest.approx(51 / 101)


def test_more_detections_than_count(tmp_path: Path) -> None:
    """150 of one category in one image, many of equal score, and a hundred objects: 100 detections are scored."""
    rng = np.random.default_rng(1)
    image = {"id": 7, "file_name": "7.jpg", "width": 900, "height": 900}
    sides = np.concatenate([rng.uniform(0, 600, (100, 2)), rng.uniform(8, 200, (100, 2))], axis=1).round(1)
    truth = {
        "images": [image, {**image, "id": 3}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": n, "image_id": 7, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": int(n % 9 == 0)}
            for n, box in enumerate(sides.tolist(), 1)
        ],
    }
    found = (sides[rng.integers(0, 100, 150)] + rng.normal(0, 3, (150, 4))).clip(1).round(2).tolist()
    scores = (rng.integers(1, 5, 150) / 5).tolist()
    results = [
        {"image_id": 3 if n % 10 == 0 else 7, "category_id": 1, "bbox": box, "score": score}
        for n, (box, score) in enumerate(zip(found, scores, strict=True))
    ]
    annotations = load(tmp_path, truth)
    metrics = evaluate(annotations, columns(tmp_path, results, annotations))
    numbers = reference(truth, results)[0]
    assert [metrics[key] for key in METRICS] == numbers
    assert numbers[0] > 0.01


def test_unsound_ground_truth_counts_as_in_pycocotools(tmp_path: Path) -> None:
    truth, results = random_set(5)
    truth["annotations"][3]["bbox"][2] = 0
    truth["annotations"][8]["bbox"][3] = -4
    results.append({**results[0], "bbox": [truth["annotations"][3]["bbox"][0], 5, 0, 0]})
    annotations = load(tmp_path, truth)
    metrics = evaluate(annotations, columns(tmp_path, results, annotations))
    assert [metrics[key] for key in METRICS] == reference(truth, results)[0]


def test_no_detections_score_zero(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    truth, _ = random_set(2)
    metrics = CocoEvaluator(load(tmp_path, truth)).metrics()
    assert metrics["AP"] == metrics["AP50"] == metrics["AR100"] == 0
    assert metrics["per_class"] == {"thing 1": 0, "thing 3": 0, "thing 17": 0, "thing 64": None, "thing 90": 0}
    assert capfd.readouterr().out == ""


def test_no_ground_truth_gives_minus_one(tmp_path: Path) -> None:
    truth, results = random_set(2)
    truth["annotations"] = []
    annotations = load(tmp_path, truth)
    assert written(CocoEvaluator(annotations), tmp_path) == []
    for found in (results, []):
        metrics = evaluate(annotations, columns(tmp_path, found, annotations))
        assert [metrics[key] for key in METRICS] == [-1] * 12
        assert set(metrics["per_class"].values()) == {None}
    assert json.dumps(metrics)


def test_false_detections_on_images_without_objects_count(tmp_path: Path) -> None:
    truth, _ = random_set(3)
    annotations = load(tmp_path, truth)
    boxes = {image.id: image for image in annotations.images}
    evaluator = CocoEvaluator(annotations)
    for image in boxes.values():
        evaluator.add(image.id, image.boxes, np.full(len(image.boxes), 0.5), image.labels)
    before = evaluator.metrics()["AP"]
    empty = next(image.id for image in annotations.images if len(image.boxes) == 0)
    evaluator.add(empty, [[0, 0, 90, 90]] * 4, [0.9] * 4, [0, 1, 2, 4])
    assert evaluator.metrics()["AP"] < before - 0.005


def test_categories_of_one_name_stay_apart(tmp_path: Path) -> None:
    truth, results = random_set(4)
    for category in truth["categories"]:
        category["name"] = "thing" if category["id"] < 10 else f"thing {category['id']}"
    annotations = load(tmp_path, truth)
    per_class = evaluate(annotations, columns(tmp_path, results, annotations))["per_class"]
    assert list(per_class) == ["thing (id 1)", "thing (id 3)", "thing 17", "thing 64", "thing 90"]


def test_small_sets_of_every_kind_equal_pycocotools(tmp_path: Path) -> None:
    """Ties, crowds, given and missing areas on the limits between sizes, far and empty boxes, no objects, no scores."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        categories = rng.permutation(9)[: rng.integers(1, 5)].tolist()
        ids = [2**53 + int(i) for i in rng.permutation(20)[: rng.integers(1, 8)]]
        truth = {
            "images": [{"id": i, "file_name": f"{i}.jpg"} for i in ids],
            "categories": [{"id": i, "name": f"thing {i}"} for i in categories],
            "annotations": [],
        }
        results = []
        for number in range(rng.integers(0, 40) * (seed % 9 > 0)):
            box = (
                rng.choice([0, 3, 8, 8.5, 32, 96], 4).tolist() if seed % 2 else rng.uniform(0, 99, 4).round(2).tolist()
            )
            entry = {"image_id": int(rng.choice(ids)), "category_id": int(rng.choice(categories)), "bbox": box}
            area = {"area": float(rng.choice([0, 1024, 9216, 1e10, -5, 1e18]))} if rng.random() < 0.3 else {}
            crowd = {"iscrowd": 1} if rng.random() < 0.2 else {}
            truth["annotations"].append(entry | area | crowd | {"id": number})
            for _ in range(rng.integers(0, 6) * (seed % 7 > 0)):
                near = (np.array(box) + rng.integers(-1, 2, 4)).clip(0).tolist()
                results.append(entry | {"bbox": near, "score": float(rng.integers(-2, 3))})
        if results:
            results[0] |= {"bbox": [-1e9, 1e9, 1e9, 1e9], "score": 1e9}
        annotations = load(tmp_path, truth)
        found = columns(tmp_path, results, annotations)
        metrics = evaluate(annotations, found)
        for entry in truth["annotations"]:
            entry["area"] = entry.get("area", entry["bbox"][2] * entry["bbox"][3])
            entry["iscrowd"] = entry.get("iscrowd", 0)
        if results:
            numbers, per_class, _ = reference(truth, results)
            assert [metrics[key] for key in METRICS] == numbers
            assert list(metrics["per_class"].values()) == per_class
        verify(annotations, found, metrics)


def test_verify_names_the_numbers_that_differ(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    truth, results = random_set(3)
    annotations = load(tmp_path, truth)
    found = columns(tmp_path, results, annotations)
    metrics = evaluate(annotations, found)
    verify(annotations, found, metrics)
    assert capfd.readouterr().out == ""
    wrong = metrics | {"AP75": float(np.nextafter(metrics["AP75"], 1)), "ARs": 0.5}
    with pytest.raises(
        UserError, match=r"truth\.json: not verified: AP75 is 0\.\d+ and 0\.\d+ by pycocotools; ARs is 0\.5"
    ):
        verify(annotations, found, wrong)


def test_a_process_forked_after_an_evaluation_says_so(tmp_path: Path) -> None:
    """hotcoco would wait there for threads that the process does not have."""
    annotations = load(tmp_path, random_set(0)[0])
    CocoEvaluator(annotations).metrics()
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        future = pool.submit(CocoEvaluator(annotations).metrics)
        with pytest.raises(RuntimeError, match="use multiprocessing's spawn method"):
            future.result(timeout=60)
