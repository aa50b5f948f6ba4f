"""Fusion of many images by each method, against ensemble-boxes, and soft-NMS by hand."""

import warnings
from typing import Any

import ensemble_boxes
import numpy as np
import pytest
import torch

from detection.fusion import fuse_by_method
from detection.postprocess import Boxes, fuse
from detection.prediction_settings import FusionRule, PostprocessSettings
from divdet.engine.errors import UserError

LIBRARY = {"wbf": ensemble_boxes.weighted_boxes_fusion, "nms": ensemble_boxes.nms,
           "nmw": ensemble_boxes.non_maximum_weighted}  # fmt: skip


def random_images(counts: np.ndarray, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Boxes, scores and labels of a batch, around a few objects; some pass the border of the image."""
    rng = np.random.default_rng(seed)
    total = counts.sum()
    corners = rng.uniform(0, 0.8, (6, 2))[rng.integers(6, size=total)] + rng.normal(0, 0.03, (total, 2))
    boxes = np.concatenate((corners, corners + 0.25 + rng.normal(0, 0.03, (total, 2))), axis=1)
    return boxes, rng.permutation(total) / total * 0.9 + 0.05, rng.integers(3, size=total)


def by_library(columns: tuple[np.ndarray, ...], counts: np.ndarray, method: str, **settings: Any) -> list[tuple]:
    """The same of ensemble-boxes, image by image, for batches in which every member has boxes on every image."""
    ends = counts.ravel().cumsum()[:-1]
    parts = [np.split(column, ends) for column in columns]
    results = []
    for image in range(len(counts)):
        own = [part[image * counts.shape[1] : (image + 1) * counts.shape[1]] for part in parts]
        own[0] = [boxes.clip(0, 1) for boxes in own[0]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results.append(LIBRARY[method](*own, **settings))
    return results


@pytest.mark.parametrize("method", ["wbf", "nms", "nmw"])
@pytest.mark.parametrize("weights", [None, [2, 1]])
def test_equals_ensemble_boxes(method: str, weights: list[float] | None) -> None:
    counts = np.array([[30, 20], [1, 40], [25, 2]])
    columns = random_images(counts)
    ours = fuse_by_method(*columns, counts, **vars(FusionRule(method=method, weights=weights, iou_thr=0.45)))
    theirs = by_library(columns, counts, method, weights=weights, iou_thr=0.45)
    for own, other in zip(ours, theirs, strict=True):
        assert 1 < len(own[1]) < 50
        assert (np.diff(own[1]) <= 0).all()
        own, other = (np.column_stack((scores, labels, boxes)) for boxes, scores, labels in (own, other))
        np.testing.assert_array_equal(own[np.lexsort(own.T)], other[np.lexsort(other.T)])  # equal scores in any order


@pytest.mark.parametrize("weights", [None, [3, 1]])
def test_soft_nms_lowers_scores(weights: list[float] | None) -> None:
    """The lowered scores by their definition (Bodla et al., 2017, Eq. 3); the boxes are ensemble-boxes'."""
    counts = np.array([[30, 20]])
    boxes, scores, labels = random_images(counts)
    ((found_boxes, found_scores, found_labels),) = fuse_by_method(
        boxes, scores, labels, counts, **vars(FusionRule(method="soft_nms", weights=weights))
    )
    boxes = boxes.clip(0, 1)
    if weights:
        scores = scores * np.repeat([0.75, 0.25], [30, 20])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    left, expected = dict(enumerate(scores.tolist())), []
    while left:
        best = max(left, key=left.get)
        if left[best] > 0.001:
            expected.append((left[best], labels[best], *boxes[best]))
        del left[best]
        for other in left:
            sides = np.minimum(boxes[best, 2:], boxes[other, 2:]) - np.maximum(boxes[best, :2], boxes[other, :2])
            overlap = sides.clip(0).prod() * (labels[best] == labels[other])
            left[other] *= np.exp(-((overlap / (areas[best] + areas[other] - overlap)) ** 2) / 0.5)
    found = np.column_stack((found_scores, found_labels, found_boxes))
    np.testing.assert_allclose(found, sorted(expected, reverse=True), rtol=1e-12)
    halves = ([boxes[:30], boxes[30:]], [scores[:30], scores[30:]], [labels[:30], labels[30:]])
    kept = ensemble_boxes.soft_nms(*halves)[0]
    np.testing.assert_array_equal(np.sort(kept, axis=0), np.sort(found_boxes, axis=0))


@pytest.mark.parametrize("method", ["wbf", "nms", "soft_nms", "nmw"])
def test_images_without_boxes(method: str) -> None:
    counts = np.array([[0, 0], [0, 2], [1, 0], [0, 0]])
    boxes = np.array([[0.1, 0.1, 0.4, 0.4], [0.6, 0.6, 0.6, 0.9], [0.2, 0.2, 0.3, 0.3]])  # the second has no area
    scores, labels = np.array([0.9, 0.8, 0.01]), np.array([2, 0, 1])
    found = fuse_by_method(boxes, scores, labels, counts, **vars(FusionRule(method=method, skip_box_thr=0.05)))
    assert [len(own[1]) for own in found] == [0, 1, 0, 0]
    assert found[1][2].tolist() == [2]
    assert [own[0].shape[1] for own in found] == [4] * 4


def test_settings_of_a_detector() -> None:
    rows = torch.tensor([[0.1, 0.1, 0.5, 0.5]])
    members = [[Boxes(rows, torch.tensor([score]), torch.tensor([3]))] for score in (0.9, 0.6)]

    def score(**settings: Any) -> float:
        (found,) = fuse(members, PostprocessSettings(**settings))
        return round(found.scores[0].item(), 5)

    assert score() == 0.75
    assert score(member_weights=[2, 1]) == 0.8  # (1.8 + 0.6) / 2 boxes * 2 members / weights of 3
    assert score(member_weights=[1, 0], fusion_conf="max") == 0.9
    assert score(fusion_method="nms") == 0.9
    assert score(fusion_method="nmw", member_weights=[1, 2]) == 0.6
    with pytest.raises(UserError, match=r"postprocess\.member_weights has 3 weights for 2 members"):
        score(member_weights=[1, 1, 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fusion_method": "median"}, "postprocess.fusion_method is 'median': choose one of wbf, nms, soft_nms, nmw"),
        ({"member_weights": [0, 0]}, "postprocess.member_weights is .* not negative, one of them above 0"),
        ({"member_weights": [1, float("nan")]}, "postprocess.member_weights"),
        ({"member_weights": "21"}, "postprocess.member_weights"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PostprocessSettings(**settings)


@pytest.mark.parametrize("method", ["wbf", "nms", "soft_nms", "nmw"])
def test_scores_and_weights_of_zero(method: str) -> None:
    boxes = np.array([[0.1, 0.1, 0.4, 0.4], [0.6, 0.6, 0.9, 0.9], [0.6, 0.1, 0.9, 0.3]])
    counts, scores, labels = np.array([[2, 1]]), np.array([0.8, 0.0, 0.6]), np.array([0, 0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ((found, fused, _),) = fuse_by_method(
            boxes, scores, labels, counts, **vars(FusionRule(method=method, weights=[1, 0]))
        )
    assert np.isfinite(found).all()
    assert np.isfinite(fused).all()
    np.testing.assert_allclose(found[0], boxes[0])
    assert (fused[1:] == 0).all()
