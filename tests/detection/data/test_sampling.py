"""Parts of the training images and rare classes, by counts."""

import json
from pathlib import Path

import numpy as np
import pytest

from detection.data.annotations import CocoAnnotations
from detection.data.coco import load_annotations
from detection.data.sampling import repeat_factors, take_fraction
from divdet.engine.errors import UserError
from divdet.engine.sampling import EpochSampler, epoch_length


@pytest.fixture
def annotations(tmp_path: Path) -> CocoAnnotations:
    """20 images: all have an a, the first four a b, the first a c; the last's a is a crowd's."""
    images = [{"id": n, "file_name": f"{n}.png", "width": 90, "height": 60} for n in range(20)]
    held = [(n, 1) for n in range(20)] + [(n, 2) for n in range(4)] + [(0, 3), (0, 3)]
    boxes = [
        {"id": n, "image_id": image, "category_id": label, "bbox": [5, 5, 30, 30], "iscrowd": int(image == 19)}
        for n, (image, label) in enumerate(held)
    ]
    data = {
        "images": images,
        "annotations": boxes,
        "categories": [{"id": n + 1, "name": x} for n, x in enumerate("abc")],
    }
    (tmp_path / "truth.json").write_text(json.dumps(data))
    return load_annotations(tmp_path / "truth.json", None)


def test_a_part_of_the_images_keeps_their_boxes_and_lies_within_larger_parts(annotations: CocoAnnotations) -> None:
    parts = [take_fraction(annotations, fraction, seed=3) for fraction in (0.2, 0.5, 0.55)]
    ids = [[image.id for image in part.images] for part in parts]
    assert [len(part) for part in ids] == [4, 10, 11]
    assert set(ids[0]) < set(ids[1]) < set(ids[2])
    assert ids[1] == sorted(ids[1])
    assert ids[1] != [image.id for image in take_fraction(annotations, 0.5, seed=4).images]
    for part in parts:
        assert sum(len(record.boxes) for record in part.images) == len(part.truth.label)
        for index, label in zip(part.truth.image, part.truth.label, strict=True):
            assert label in part.images[index].labels
    assert parts[0].fingerprint() != parts[1].fingerprint() != annotations.fingerprint()
    assert take_fraction(annotations, 1.0, seed=3) is annotations
    last = next(seed for seed in range(1000) if take_one(annotations, seed) is None)
    with pytest.raises(UserError, match=r"train\.fraction 0\.01: the part of 1 image has no object;"):
        take_fraction(annotations, 0.01, last)


def take_one(annotations: CocoAnnotations, seed: int) -> CocoAnnotations | None:
    try:
        return take_fraction(annotations, 0.01, seed)
    except UserError:
        return None


def test_factors_are_those_of_lvis(annotations: CocoAnnotations, capsys: pytest.CaptureFixture) -> None:
    """a is in 19 of 20 images (the crowd does not count), b in 4, c in 1; threshold 0.8."""
    found = repeat_factors(annotations, 0.8)
    b, c = np.sqrt(0.8 / 0.2), np.sqrt(0.8 / 0.05)
    np.testing.assert_allclose(found, [c, b, b, b, *[1] * 16])
    assert "26 images an epoch; factors c 4, b 2" in capsys.readouterr().out
    np.testing.assert_allclose(repeat_factors(annotations, 1)[[10, 19]], [np.sqrt(1 / 0.95), 1])
    assert repeat_factors(annotations, 0) is None
    assert repeat_factors(annotations, 0.04).tolist() == [1] * 20
    assert "no class is that rare" in capsys.readouterr().out


def test_an_epoch_repeats_images_as_often_as_their_factors() -> None:
    repeats = [2.5, 1, 1.25, 1, 1.25, 3]
    assert epoch_length(6, repeats) == 10
    sampler, counts = EpochSampler(6, 2, seed=1, repeats=repeats), np.zeros(6)
    assert sampler.batches == 5
    for epoch in range(400):
        sampler.epoch = epoch
        numbers = [number for _, number in sampler]
        assert len(set(numbers)) == 10  # each repetition draws for itself
        own = np.bincount([number % 6 for number in numbers], minlength=6)
        assert (abs(own - repeats) < 1).all()
        counts += own
    np.testing.assert_allclose(counts / 400, repeats, atol=0.08)


def test_repeated_images_are_shared_out_alike() -> None:
    repeats = np.linspace(1, 3, 9)
    whole = EpochSampler(9, 4, seed=3, repeats=repeats)
    halves = [EpochSampler(9, 2, 3, replica=replica, replicas=2, repeats=repeats) for replica in (0, 1)]
    for step in range(whole.batches):
        assert halves[0].batch(step) + halves[1].batch(step) == whole.batch(step)


def test_few_repeated_images_fill_a_step_with_other_numbers() -> None:
    keys = list(EpochSampler(2, 8, seed=0, repeats=[1, 2]))
    assert len(set(keys)) == 8
    assert sorted(number % 2 for _, number in keys).count(1) >= 5
