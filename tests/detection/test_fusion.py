"""Weighted boxes fusion against ensemble-boxes, and by hand where that library fails."""

import importlib
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import ensemble_boxes
import numpy as np
import pytest
import torch

from detection.fusion import fuse_images, weighted_boxes_fusion

CONF_TYPES = ["avg", "max", "box_and_model_avg", "absent_model_aware_avg"]
BOX, SAME, FAR = [0.1, 0.1, 0.4, 0.5], [0.1, 0.1, 0.4, 0.5], [0.6, 0.6, 0.9, 0.8]


def random_members(seed: int, sizes: tuple[int, ...], num_labels: int = 3) -> tuple[list[Any], list[Any], list[Any]]:
    """Boxes around a few common objects, some overshooting, with distinct scores."""
    rng = np.random.default_rng(seed)
    objects = rng.uniform(0, 0.7, (12, 2))
    boxes, labels = [], []
    for size in sizes:
        corners = objects[rng.integers(12, size=size)] + rng.normal(0, 0.03, (size, 2))
        boxes.append(np.concatenate((corners, corners + 0.2 + rng.normal(0, 0.03, (size, 2))), axis=1))
        labels.append(rng.integers(num_labels, size=size) * 7)
    scores = np.split(rng.permutation(sum(sizes)) / sum(sizes) * 0.9 + 0.05, np.cumsum(sizes)[:-1])
    return boxes, scores, labels


def assert_same(ours: tuple, theirs: tuple) -> None:
    """Bit-equal boxes, scores and labels; results of one score may come in any order."""
    assert len(ours[1]) == len(theirs[1]) > 0
    np.testing.assert_array_equal(ours[1], theirs[1])
    ours, theirs = (np.column_stack((scores, labels, boxes)) for boxes, scores, labels in (ours, theirs))
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


@pytest.mark.parametrize("conf_type", CONF_TYPES)
@pytest.mark.parametrize("weights", [None, [2, 1, 3], [0.3, 0.7, 0.1], [1, 0, 2]])
@pytest.mark.parametrize("allows_overflow", [False, True])
def test_equals_ensemble_boxes(conf_type: str, weights: list | None, allows_overflow: bool) -> None:
    settings: dict[str, Any] = {
        "weights": weights, "iou_thr": 0.5, "skip_box_thr": 0.1, "conf_type": conf_type,
        "allows_overflow": allows_overflow,
    }  # fmt: skip
    for seed in range(5):
        members = random_members(seed, (60, 1, 90))
        if weights and 0 in weights:  # a library cluster of two boxes of weight 0 is NaN: give them one box, far away
            members[0][1][:] = [0.95, 0.0, 1.0, 0.04]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = ensemble_boxes.weighted_boxes_fusion(*members, **settings)
        with np.errstate(all="raise"):
            ours = weighted_boxes_fusion(*members, **settings)
        if weights and 0 in weights and conf_type == "box_and_model_avg":
            theirs = theirs[0], np.nan_to_num(theirs[1]), theirs[2]
            order = np.argsort(-theirs[1], kind="stable")
            theirs = tuple(values[order] for values in theirs)
        assert_same(ours, theirs)
        assert (np.diff(ours[1]) <= 0).all()


@pytest.mark.parametrize("conf_type", CONF_TYPES)
def test_equals_ensemble_boxes_for_many_members_and_float32_lists(conf_type: str) -> None:
    boxes, scores, labels = random_members(9, (30,) * 11)
    scores = [member.astype(np.float32) for member in scores]
    weights = np.random.default_rng(1).uniform(0.1, 1, 11)
    # The library compares a float32 score with the threshold in float32.
    settings: dict[str, Any] = {"weights": weights, "skip_box_thr": float(str(scores[3][4])), "conf_type": conf_type}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = ensemble_boxes.weighted_boxes_fusion(boxes, scores, labels, **settings)
    assert_same(weighted_boxes_fusion(boxes, scores, labels, **settings), theirs)
    as_lists = ([member.tolist() for member in boxes], [member.tolist() for member in scores],
                [member.tolist() for member in labels])  # fmt: skip
    assert_same(
        weighted_boxes_fusion(*as_lists, weights=weights, conf_type=conf_type),
        weighted_boxes_fusion(boxes, scores, labels, weights=weights, conf_type=conf_type),
    )


@pytest.mark.parametrize("seed", range(40))
def test_equals_ensemble_boxes_under_random_settings(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    sizes = tuple(rng.integers(1, 80, rng.integers(1, 10)).tolist())
    boxes, scores, labels = random_members(seed, sizes, num_labels=int(rng.choice([1, 2, 20, 500])))
    dtype = rng.choice([np.float32, np.float64])
    scores = [np.sort(member)[:: rng.choice([-1, 1])].astype(dtype) for member in scores]
    boxes, labels = [member.astype(dtype) for member in boxes], [member - 1000 * (seed % 2) for member in labels]
    settings: dict[str, Any] = {
        "weights": rng.uniform(0.1, 2, len(sizes)), "iou_thr": rng.choice([0.0, 0.3, 0.55, 0.8, 1.0]),
        "skip_box_thr": rng.choice([0.0, 0.3]), "conf_type": rng.choice(CONF_TYPES),
        "allows_overflow": bool(rng.integers(2)),
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = ensemble_boxes.weighted_boxes_fusion(boxes, scores, labels, **settings)
    assert_same(weighted_boxes_fusion(boxes, scores, labels, **settings), theirs)


@pytest.mark.parametrize("iou_thr", [0.0005, 0.1, 0.4, 0.7])
def test_equals_ensemble_boxes_where_many_boxes_of_a_label_overlap_several_clusters_alike(iou_thr: float) -> None:
    rng = np.random.default_rng(0)
    corners, sides = rng.integers(0, 24, (2, 400, 2)) / 32, rng.integers(1, 9, (2, 400, 2)) / 32
    boxes, labels = list(np.concatenate((corners, corners + sides), axis=2)), [np.ones(400)] * 2
    scores = list((rng.permutation(800).reshape(2, 400) + 1) / 801)
    theirs = ensemble_boxes.weighted_boxes_fusion(boxes, scores, labels, iou_thr=iou_thr)
    assert_same(weighted_boxes_fusion(boxes, scores, labels, iou_thr=iou_thr), theirs)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("conf_type", CONF_TYPES)
def test_a_batch_equals_its_images_one_by_one(threads: int, conf_type: str) -> None:
    images = [random_members(seed, sizes) for seed, sizes in enumerate([(30, 50), (1, 9), (300, 200)])]
    images.insert(1, ([np.zeros((0, 4))] * 2, [np.zeros(0)] * 2, [np.zeros(0, int)] * 2))
    boxes, scores, labels = (np.concatenate([*chain(*column)]) for column in zip(*images, strict=True))
    counts = np.array([[len(own) for own in scores] for _, scores, _ in images])
    shared: dict[str, Any] = {"weights": np.array([1.0, 2.0]), "thresholds": np.full(2, 0.1), "iou_thr": 0.5}
    together = fuse_images(boxes, scores, labels, counts, **shared, conf_type=conf_type, threads=threads)
    for image, fused in zip(images, together, strict=True):
        alone = weighted_boxes_fusion(*image, weights=[1, 2], iou_thr=0.5, skip_box_thr=0.1, conf_type=conf_type)
        for ours, expected in zip(fused, alone, strict=True):
            np.testing.assert_array_equal(ours, expected)
    assert not len(together[1][1])
    scores[counts[:3].sum()] = np.nan  # the first of the last image
    with pytest.raises(ValueError, match="member 0: score nan"):
        fuse_images(boxes, scores, labels, counts, **shared, conf_type=conf_type, threads=threads)


def test_many_threads_and_a_forked_process_may_fuse_at_once() -> None:
    image = random_members(3, (200, 200))
    boxes, scores, labels = (np.concatenate(column * 4) for column in image)
    arguments: Any = boxes, scores, labels, np.full((4, 2), 200), np.ones(2), np.zeros(2), 0.5, "avg"
    expected = weighted_boxes_fusion(*image, iou_thr=0.5)[1]

    def right(_: int = 0) -> bool:
        return all(np.array_equal(scores, expected) for _, scores, _ in fuse_images(*arguments, threads=2))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(right, range(20)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's, of forking beside threads
        child = os.fork()
    if child == 0:
        ended = 1
        try:
            ended = 0 if right() else 1
        finally:
            os._exit(ended)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([[BOX], []], {"avg": 0.4, "max": 0.8, "box_and_model_avg": 0.4, "absent_model_aware_avg": 0.4}),
        ([[BOX], [BOX]], {"avg": 0.8, "max": 0.8, "box_and_model_avg": 0.8, "absent_model_aware_avg": 0.8}),
        ([[BOX, BOX], []], {"avg": 0.8, "max": 0.8, "box_and_model_avg": 0.4, "absent_model_aware_avg": 1.6 / 3}),
    ],
)
def test_scores_of_one_or_two_members(found: list, expected: dict[str, float]) -> None:
    for conf_type, score in expected.items():
        scores_list, labels_list = ([[value] * len(member) for member in found] for value in (0.8, 1))
        boxes, scores, _ = weighted_boxes_fusion(found, scores_list, labels_list, conf_type=conf_type)
        np.testing.assert_allclose(boxes, [BOX], atol=1e-7)
        np.testing.assert_allclose(scores, [score], atol=1e-7)


def test_matching_is_strictly_above_the_threshold() -> None:
    halves = [[[0.0, 0.0, 0.5, 1.0]], [[0.0, 0.0, 1.0, 1.0]]]  # IoU exactly 0.5
    assert len(weighted_boxes_fusion(halves, [[0.9], [0.8]], [[0], [0]], iou_thr=0.5)[1]) == 2
    assert len(weighted_boxes_fusion(halves, [[0.9], [0.8]], [[0], [0]], iou_thr=0.4999)[1]) == 1


def test_ties_keep_the_order_of_members_then_boxes() -> None:
    # The middle box takes whichever neighbour comes next; the other then overlaps too little.
    middle, left, right = [0.15, 0, 0.55, 1], [0.0, 0, 0.4, 1], [0.3, 0, 0.7, 1]
    left_first, right_first = [0.075, 0.3], [0, 0.225]
    for members, edges in [
        ([[middle, left], [right]], left_first),
        ([[middle, right], [left]], right_first),
        ([[middle], [left, right]], left_first),
        ([[middle], [right, left]], right_first),
    ]:
        scores, labels = ([[value] * len(member) for member in members] for value in (0.5, 3))
        boxes = weighted_boxes_fusion(members, scores, labels, iou_thr=0.4)[0]
        np.testing.assert_allclose(np.sort(boxes[:, 0]), edges, atol=1e-7)

    many = [[[x / 40, 0, x / 40 + 0.02, 1] for x in range(30)]]
    boxes, _, labels = weighted_boxes_fusion(many, [[0.5] * 30], [[1, 0] * 15])
    np.testing.assert_allclose(boxes[:, 0] * 40, [*range(1, 30, 2), *range(0, 30, 2)], atol=1e-6)
    assert labels.tolist() == [0] * 15 + [1] * 15


def test_empty_members_and_no_boxes_at_all() -> None:
    for nothing in ([], np.zeros((0, 4)), torch.zeros(0, 4)):
        boxes, scores, labels = weighted_boxes_fusion([nothing, [BOX]], [[], [0.5]], [[], [3]])
        assert boxes.tolist() == [BOX]
        assert scores.tolist() == [0.25]
        assert labels.tolist() == [3]
        boxes, scores, labels = weighted_boxes_fusion([nothing, []], [[], []], [[], []])
        assert boxes.shape == (0, 4)
        assert scores.shape == (0,)
        assert labels.shape == (0,)
        assert labels.dtype == np.int64
    boxes, _, labels = weighted_boxes_fusion([[BOX]], [[0.1]], [np.array([3], np.int32)], skip_box_thr=0.2)
    assert boxes.shape == (0, 4)
    assert labels.dtype == np.int32


@pytest.mark.parametrize("conf_type", CONF_TYPES)
def test_zero_scores_and_zero_weights_give_zero_not_nan(conf_type: str) -> None:
    with np.errstate(all="raise"):
        boxes, scores, _ = weighted_boxes_fusion(
            [[BOX], [SAME, FAR]], [[0], [0, 0]], [[1], [1, 1]], conf_type=conf_type
        )
        assert boxes.tolist() == [BOX, FAR]
        assert scores.tolist() == [0, 0]
        boxes, scores, _ = weighted_boxes_fusion(
            [[BOX], [FAR, FAR]], [[0.5], [0.9, 0.8]], [[1], [1, 1]], weights=[1, 0], conf_type=conf_type
        )
    assert boxes.tolist() == [BOX, FAR]
    assert scores.tolist() == [0.5, 0]


@pytest.mark.parametrize(
    ("dtype", "result"),
    [(np.int64, np.int64), (np.int32, np.int32), (np.uint8, np.uint8), (np.float64, np.int64), (np.float32, np.int64)],
)
def test_labels_come_back_as_integers(dtype: type, result: type) -> None:
    labels = weighted_boxes_fusion([[BOX, FAR], []], [[0.5, 0.4], []], [np.array([7, 9], dtype), []])[2]
    assert labels.dtype == result
    assert labels.tolist() == [7, 9]
    assert weighted_boxes_fusion([[BOX]], [[0.5]], [[7]])[2].dtype == np.int64


def test_overshoot_is_clipped_corners_swapped_and_flat_boxes_dropped_without_a_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    boxes = np.array([[-0.2, 0.5, 0.3, 1.4], [0.9, 0.4, 0.7, 0.1], [0.2, 0.2, 0.2, 0.6], [1.1, 0.1, 1.3, 0.4]])
    before = boxes.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fused, scores, _ = weighted_boxes_fusion([boxes], [[0.9, 0.8, 0.7, 0.6]], [[0, 0, 0, 0]])
    assert fused.tolist() == [[0, 0.5, 0.3, 1], [0.7, 0.1, 0.9, 0.4]]
    assert scores.tolist() == [0.9, 0.8]
    assert np.array_equal(boxes, before)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[BOX], [[0, 0, 120, 80]]], [[0.5], [0.5]], [[0], [0]]), r"member 1: coordinate 120.*pixels"),
        (([[BOX], [[0, 0, np.nan, 1]]], [[0.5], [0.5]], [[0], [0]]), "member 1: coordinate nan"),
        (([[BOX]], [[np.nan]], [[0]]), "member 0: score nan"),
        (([[BOX]], [[0.5]], [[np.nan]]), "member 0: label nan"),
        (([[BOX]], [[0.5]], [[1.5]]), "member 0: label 1.5"),
        (([[BOX]], [[0.5]], [[1e20]]), "member 0: label 1e.20; labels must be whole numbers of 64 bits"),
        (([[BOX]], [[0.5]], [["a"]]), "member 0: labels are <U1; they must be whole numbers"),
        (([[BOX]], [[0.5]], [[0]], None, 0.55, np.nan), "skip_box_thr is nan"),
        (([[BOX]], [[0.5, 0.4]], [[0]]), "member 0: boxes"),
        (([[BOX]], [[0.5]], [[0, 1]]), "member 0: boxes"),
        (([BOX], [[0.5]], [[0]]), "member 0: boxes"),
        (([[BOX]], [[0.5], [0.4]], [[0]]), "one entry per member"),
        (([[BOX]], [[0.5]], [[0]], [1, 2]), "need 1 weights"),
        (([[BOX]], [[0.5]], [[0]], [0]), "not all zero"),
        (([[BOX]], [[0.5]], [[0]], [-1]), "not negative"),
        (([[BOX]], [[0.5]], [[0]], [np.nan]), "finite"),
        (([[BOX]], [[0.5]], [[0]], None, 1.5), "iou_thr"),
        (([[BOX]], [[0.5]], [[0]], None, 0.5, 0.0, "median"), "conf_type is 'median'"),
        (([[BOX]], [[-0.5]], [[0]], None, 0.5, -1.0), "member 0: score -0.5.*negative"),
        (([[BOX], [], [BOX]], [[0.5], [], [np.inf]], [[0], [], [0]]), "member 2: score inf"),
    ],
)
def test_bad_input_is_an_error(arguments: tuple, message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=message):
            weighted_boxes_fusion(*arguments)


def test_importing_does_not_load_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "detection"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)  # importing it now fails
    importlib.import_module("detection.fusion")


def test_boxes_may_be_transposed_columns() -> None:
    given = np.array([[0.1, 0.2, 0.5, 0.6], [0.3, 0.3, 0.7, 0.8]])
    plain, transposed = (
        weighted_boxes_fusion([boxes, boxes], [[0.9, 0.5]] * 2, [[0, 1]] * 2)
        for boxes in (given, np.asfortranarray(given))  # the second as np.stack((x1, y1, x2, y2)).T gives them
    )
    for one, other in zip(plain, transposed, strict=True):
        np.testing.assert_array_equal(one, other)
