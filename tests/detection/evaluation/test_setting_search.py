"""Settings applied to kept candidates, against the detector itself, torchvision and COCO; and their search."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import boxes as torchvision_boxes

from detection.data.annotations import CocoAnnotations
from detection.data.coco import load_annotations
from detection.data.coco_results import Results, load_results
from detection.detector import Detector
from detection.evaluation.analysis import analyze
from detection.evaluation.candidates import Candidates, collect
from detection.evaluation.coco_metrics import evaluate
from detection.evaluation.evaluate import score
from detection.evaluation.intervals import compare
from detection.evaluation.setting_search import difference, measure, search, variations
from detection.kernels import nms
from detection.models.head import create_detector
from detection.prediction_settings import PostprocessSettings
from tests.detection.evaluation import cases
from tests.detection.generated import shapes


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> CocoAnnotations:
    data = shapes(tmp_path_factory.mktemp("shapes"))
    return load_annotations(Path(data.val_annotations), Path(data.val_images))


@pytest.mark.parametrize(("head", "members"), [("ssd300", 2), ("fcos", 1)])
def test_equal_to_the_detector(truth: CocoAnnotations, head: str, members: int) -> None:
    torch.manual_seed(0)
    classes, size = len(truth.names), 128 if head == "fcos" else None
    model = create_detector(head, "resnet10_16", members, classes, size)
    start = PostprocessSettings(candidates_per_class=60, max_per_member=100)
    detector = Detector(model, truth.names, truth.category_ids, start, torch.device("cpu"))
    candidates = collect(detector, truth, 0.01, batch_size=5)
    low, middle, high = np.quantile(candidates.scores, (0.3, 0.5, 0.9)).tolist()
    start, found = replace(start, score_threshold=middle), []
    for changed in (
        {},
        {"nms_iou": 0.3, "fusion_iou": 0.7, "fusion_conf": "max", "score_threshold": low},
        {"class_agnostic": True, "nms_iou": 0.6, "member_weights": [1.0, 3.0][:members]},
        {"fusion_method": "soft_nms", "classes": truth.names[:2], "class_thresholds": {truth.names[0]: high}},
    ):
        detector.settings = replace(start, **changed)
        expected = score(detector, truth, 5)
        results = candidates.results(detector.settings)
        for own, other in zip(vars(results).values(), vars(expected.fused).values(), strict=True):
            np.testing.assert_array_equal(own, other)
        ap = measure(truth, results, np.ones(len(truth.images), bool), "AP").value
        assert ap == pytest.approx(expected.metrics["AP"], abs=1e-12)
        found.append(len(results))
    assert min(found) > 20
    assert len(set(found)) == 4
    with pytest.raises(ValueError, match="no score is below"):
        candidates.results(replace(start, score_threshold=0.005))


@pytest.mark.parametrize("iou", [0.0, 0.3, 0.5, 1.0])
def test_suppression_is_torchvisions(iou: float) -> None:
    rng = np.random.default_rng(0)
    counts = np.array([40, 0, 1, 300, 80])
    starts = np.concatenate(([0], counts.cumsum()))
    corners = rng.integers(0, 12, (counts.sum(), 2)) / 16  # coarse: equal boxes, and IoU of exactly the threshold
    boxes = np.concatenate((corners, corners + rng.integers(1, 6, corners.shape) / 16), axis=1).astype(np.float32)
    labels, scores = rng.integers(0, 3, len(boxes)), np.empty(len(boxes), np.float32)
    kept, limit = np.ones(len(boxes), bool), 60
    for start, end in pairwise(starts):
        scores[start:end] = np.sort(rng.integers(1, 20, end - start) / 20)[::-1]
    inputs = (boxes, scores, labels, 3, np.float32(0.2), iou, limit)
    nms.suppress(0, 3, starts, *inputs, kept)
    nms.suppress(3, 5, starts, *inputs, kept)
    for start, end in pairwise(starts):
        above = start + np.flatnonzero(scores[start:end] > np.float32(0.2))
        columns = (torch.from_numpy(column[above]) for column in (boxes, scores, labels))
        rows = torchvision_boxes._batched_nms_vanilla(*columns, iou).numpy() if len(above) else np.zeros(0, int)
        # which of equal scores comes first is open there, the boxes are not: rows are compared in order of score
        expected = np.sort(above[np.sort(rows)])[:limit]
        assert (start + np.flatnonzero(kept[start:end])).tolist() == expected.tolist()


def halves(folder: Path) -> tuple[CocoAnnotations, Results, np.ndarray, CocoAnnotations, Results]:
    """Random ground truth and results, which images count, and both again with those images alone."""
    truth, results = cases.random_set(3)
    annotations = cases.load(folder, truth)
    images = np.arange(len(annotations.images)) % 3 > 0
    ids = {image.id for image, own in zip(annotations.images, images, strict=True) if own}
    part = dict(truth, images=[one for one in truth["images"] if one["id"] in ids])
    part["annotations"] = [one for one in truth["annotations"] if one["image_id"] in ids]
    (folder / "part").mkdir()
    own = cases.load(folder / "part", part)
    (folder / "part.json").write_text(json.dumps([one for one in results if one["image_id"] in ids]))
    everything = cases.columns(folder, results, annotations)
    return annotations, everything, images, own, load_results(folder / "part.json", own)


def test_metrics_of_some_images(tmp_path: Path) -> None:
    annotations, results, images, own, own_results = halves(tmp_path)
    expected = evaluate(own, own_results)
    for metric in ("AP", "AP50"):
        assert measure(annotations, results, images, metric).value == pytest.approx(expected[metric], abs=1e-12)
    best = analyze(own, own_results).best
    found = measure(annotations, results, images, "F1")
    assert found == pytest.approx((best.f1, best.threshold))
    nowhere = np.zeros(len(images), bool)
    assert np.isnan(measure(annotations, results, nowhere, "AP").value)


def test_difference_on_some_images(tmp_path: Path) -> None:
    annotations, results, images, own, own_results = halves(tmp_path)

    def weakened(results: Results) -> Results:
        return replace(results, bbox=results.bbox * [1, 1, 1.1, 1.0])

    *values, gain = difference(annotations, results, weakened(results), images, "AP")
    assert gain == pytest.approx(compare(own, own_results, weakened(own_results)).AP, abs=1e-12)
    assert values[1] - values[0] == pytest.approx(gain.value)
    first, second, gain = difference(annotations, results, weakened(results), images, "F1", (0.5, 0.7))
    given = [analyze(own, found, at).given.f1 for found, at in ((own_results, 0.5), (weakened(own_results), 0.7))]
    assert [first, second] == pytest.approx(given)
    assert gain.value == pytest.approx(second - first)
    assert gain.low < gain.value < gain.high


def crowded(annotations: CocoAnnotations, members: int = 2, seed: int = 0) -> Candidates:
    """Each object found by each member, and once more beside it with IoU 0.6 and a high score: NMS at 0.6 lets pass."""
    rng, rows = np.random.default_rng(seed), []
    for number, record in enumerate(annotations.images):
        sizes = np.array([record.width, record.height] * 2)
        boxes = annotations.truth.bbox[annotations.truth.image == number]
        labels = annotations.truth.label[annotations.truth.image == number]
        for member in range(members):
            for box, label in zip(boxes, labels, strict=True):
                for shift, sure in ((0.0, 0.9), (0.25, 0.8)):
                    corners = np.array([box[0], box[1], box[0] + box[2], box[1] + box[3]])
                    moved = corners + [shift * box[2], 0] * 2 + rng.normal(0, 0.02, 4) * box[2]
                    rows.append((number, member, -sure - rng.uniform(0, 0.1), label, *(moved / sizes)))
    table = np.array(sorted(rows))
    counts = np.zeros((len(annotations.images), members), np.int64)
    np.add.at(counts, (table[:, 0].astype(int), table[:, 1].astype(int)), 1)
    sizes = np.array([(record.width, record.height) for record in annotations.images], np.float32)
    return Candidates(
        table[:, 4:].astype(np.float32),
        -table[:, 2].astype(np.float32),
        table[:, 3].astype(np.int64),
        counts,
        np.arange(len(sizes)),
        sizes,
        np.ones_like(sizes),
        annotations.names,
        annotations.category_ids,
        0.01,
    )


GRIDS = {"nms_iou": [0.3, 0.5, 0.9], "fusion_iou": [0.5, 0.7], "fusion_conf": ["avg", "max"], "member_weights": [1, 2]}


def test_search_finds_what_is_planted(truth: CocoAnnotations) -> None:
    candidates, start = crowded(truth), PostprocessSettings(nms_iou=0.9)
    chosen = np.arange(len(truth.images)) < 3
    found = search(candidates.part(chosen), truth, start, GRIDS)
    settings, best = found.best
    assert settings.nms_iou in (0.3, 0.5)
    assert best.value > found.tried[0][1].value + 0.05
    today = measure(truth, candidates.results(start), chosen, "AP")
    assert found.tried[0] == (start, today)
    assert best.value == max(value.value for _, value in found.tried)
    assert len({repr(settings) for settings, _ in found.tried}) == len(found.tried)  # none twice
    assert dict(found.effects["nms_iou"])[settings.nms_iou] == pytest.approx(best.value)
    # What lies outside the images to choose on changes nothing
    other = replace(candidates, boxes=candidates.boxes.copy())
    other.boxes[candidates.counts[:3].sum() :] = [0, 0, 1, 1]
    assert search(other.part(chosen), truth, start, GRIDS).tried == found.tried
    expected = evaluate(truth, candidates.results(settings))["AP"]
    everywhere = np.ones(len(truth.images), bool)
    assert measure(truth, candidates.results(settings), everywhere, "AP").value == pytest.approx(expected, abs=1e-12)


def test_equal_settings_leave_todays(truth: CocoAnnotations) -> None:
    start = PostprocessSettings(nms_iou=0.5)
    found = search(crowded(truth), truth, start, {"score_threshold": [0.02, 0.03]})
    assert len(found.tried) == 3
    assert found.best[0] == start


def test_variations(truth: CocoAnnotations) -> None:
    two, alone, three = (crowded(truth, members) for members in (2, 1, 3))

    def values(option: str, candidates: Candidates = two, **changed: object) -> list:
        grids = GRIDS | {"fusion_method": ["nms"], "class_agnostic": [False, True]}
        return [value for value, _ in variations(option, PostprocessSettings(**changed), grids, candidates)]

    assert values("nms_iou", nms_iou=0.4) == [0.3, 0.4, 0.5, 0.9]  # with the present one
    assert values("member_weights") == [None, [1.0, 0.5]]
    assert values("member_weights", three) == [None, [1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, 0.5, 1.0]]
    assert values("fusion_conf", fusion_method="nmw") == []
    assert values("fusion_iou", fusion_method="soft_nms") == []
    assert [name for name in (*GRIDS, "fusion_method", "class_agnostic") if values(name, alone)] == [
        "nms_iou",
        "class_agnostic",
    ]
    assert values("score_threshold") == []  # of no grid
