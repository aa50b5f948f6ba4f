"""The numbers of a split, against boxes whose sizes are known."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detection.data import statistics
from detection.data.check import DataCheck
from detection.data.coco import ground_truth_from
from detection.data.image_index import ImageFacts
from detection.data.remarks import enough, remarks, shift, unmet_at
from detection.data.statistics import Statistics, describe


def measured(boxes: list[tuple[int, int, list[float]]], size: tuple[int, int] = (600, 300), **more: list) -> Statistics:
    """Statistics of two images and the classes cat, dog and bird; a box is (image 1 or 2, class 1 to 3, bbox)."""
    return describe(truth(boxes, size, **more), {})


def truth(boxes: list, size: tuple[int, int], crowds: list | None = None):
    annotations = [
        {"id": n, "image_id": image, "category_id": kind, "bbox": bbox, "iscrowd": int(n in (crowds or []))}
        for n, (image, kind, bbox) in enumerate(boxes)
    ]
    images = [{"id": n, "file_name": f"{n}.jpg", "width": size[0], "height": size[1]} for n in (1, 2)]
    names = [{"id": n, "name": name} for n, name in enumerate(("cat", "dog", "bird"), 1)]
    return ground_truth_from({"images": images, "annotations": annotations, "categories": names}, Path("a.json"), None)


def test_counts_and_sizes() -> None:
    # In 600 x 300 pixels; the input halves widths.
    boxes = [(1, 1, [0, 0, 20, 40]), (1, 1, [0, 0, 60, 30]), (1, 2, [0, 0, 200, 100]), (1, 2, [9, 9, 90, 90])]
    found = measured(boxes, crowds=[3])
    assert (found.images, found.empty, found.objects, found.crowds, found.most) == (2, 1, 3, 1, 3)
    assert found.sizes == [1, 1, 1]
    assert found.input_sizes == [2, 0, 1]  # 10 x 40, 30 x 30, 100 x 100
    assert found.per_image == {"0": 1, "1": 0, "2": 0, "3-4": 1}
    assert found.sides == {16: 2, 32: 0, 64: 1}  # 20, 30, 100
    assert found.shapes == {"landscape": 2}
    assert found.image_sizes == {(600, 300): 2}
    cat, dog, bird = found.classes
    assert (cat.objects, cat.images, cat.sizes, cat.input_side) == (2, 1, [1, 1, 0], 25)
    assert (dog.objects, dog.images) == (1, 1)
    assert bird.objects == 0
    assert math.isnan(bird.input_side)
    small = found.smallest[0]
    assert (small.name, small.sides, small.input_sides, small.center) == ("cat", (20, 40), (10, 40), (10, 20))


def test_small_objects_of_a_large_photo() -> None:
    boxes = [(1, 1, [100 * n + 8, 500, 24, 24]) for n in range(30)]
    found = measured(boxes, (4000, 3000))
    assert found.unmet == 1
    np.testing.assert_allclose(found.smallest[0].input_sides, (1.8, 2.4))
    assert found.sizes == found.input_sizes == [30, 0, 0]
    assert enough(found) in (2048, 3072)
    assert unmet_at(found, enough(found)) < 0.1 <= unmet_at(found, 1024)
    assert any("100% of the objects meet no default box" in line for line in remarks(DataCheck(), {"train": found}))


def test_a_sample_stands_for_many_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = [(1, 1 + n % 2, [4 * (n % 100), 100, 4 if n % 2 else 150, 4 if n % 2 else 150]) for n in range(400)]
    whole = measured(boxes)
    monkeypatch.setattr(statistics, "_COVERED", 200)
    part = measured(boxes)
    assert (whole.sampled, part.sampled, part.objects) == (400, 200, 400)
    assert part.unmet == pytest.approx(whole.unmet, abs=0.1)


def test_images_of_unknown_size_are_measured_as_decoded() -> None:
    annotations = truth([(1, 1, [0, 0, 10, 20])], (600, 300))
    for record in annotations.images:
        record.width = record.height = None
    turned = ImageFacts(100, 200, 6)
    facts = {Path("1.jpg"): turned, Path("2.jpg"): ImageFacts(0, 0, 1, "is empty")}
    annotations.images[0].upright = True
    found = describe(annotations, facts)
    assert found.image_sizes == {(200, 100): 1}
    assert found.turned == 1
    assert found.smallest[0].input_sides == (15, 60)
    assert describe(annotations, {}).image_sizes == {}


def test_nothing_to_measure() -> None:
    found = measured([])
    assert (found.objects, found.empty, found.smallest, found.needed, found.unmet) == (0, 2, [], {}, 0)
    assert remarks(DataCheck(), {"train": found}) == []


def test_many_crowds_are_remarked() -> None:
    found = replace(measured([(1, 1, [0, 0, 100, 100])]), crowds=1)
    assert any("50% of the boxes are crowds" in line for line in remarks(DataCheck(), {"train": found}))
    few = replace(found, objects=9)
    assert not any("crowds" in line for line in remarks(DataCheck(), {"train": few}))


def test_remarks_on_classes() -> None:
    square = [0, 0, 100, 100]
    training = measured([*[(1, 1, square)] * 100, *[(1, 2, square)] * 5])
    validation = measured([*[(1, 1, square)] * 10, *[(1, 2, square)] * 10, (2, 3, square)])
    lines = remarks(DataCheck(), {"train": training, "val": validation})
    expected = [
        "classes of validation without any training object: bird",
        "classes with fewer than 20 training objects: dog (5)",
        "imbalance: 20 times as many objects of cat as of dog in training",
        "classes more or less frequent in validation than in training: dog (10.0 times)",
        "validation has 21 objects: its AP changes by several points by chance alone",
    ]
    assert lines == expected
    assert shift(training, validation, 0) == pytest.approx(10 / 21 / (100 / 105))
    assert shift(training, validation, 2) == float("inf")
