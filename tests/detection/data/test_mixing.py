"""Mosaics and mixtures: pixels and boxes move together, and every draw is a function of seed, epoch and image."""

from pathlib import Path

import numpy as np
import pytest
import torch

from detection.data.augmentation import TrainingAugmentation
from detection.data.coco import load_annotations
from detection.data.dataset import TrainingImages, collate
from detection.data.mixing import mixup, mosaic
from detection.heads import Input
from detection.preprocess import seen_share, to_input
from detection.settings import DataSettings
from divdet.engine.loading import Loader
from divdet.engine.sampling import EpochSampler
from tests.detection.generated import write_noise

COLORS = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250], [250, 250, 10]])


def part(color: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A colored box on black."""
    image = np.zeros((height, width, 3), np.uint8)
    box = np.array([[width // 4, height // 4, width * 3 // 4, height * 3 // 4]])
    image[box[0, 1] : box[0, 3], box[0, 0] : box[0, 2]] = color
    return image, box.astype(np.float32), np.array([int(np.flatnonzero((color == COLORS).all(1))[0])])


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize("seed", range(12))
def test_boxes_of_a_mosaic_lie_where_their_colors_are(seed: int, fit: str) -> None:
    sizes = [(200, 100), (60, 90), (300, 300), (640, 480)]
    parts = [part(color, *size) for color, size in zip(COLORS, sizes, strict=True)]
    image, boxes, labels = mosaic(parts, np.random.default_rng(seed), Input(300, fit))
    assert 300 <= image.shape[0] == image.shape[1] <= 600
    assert image.dtype == np.uint8
    found = set(labels.tolist())
    for label, color in enumerate(COLORS):
        rows, columns = np.nonzero((np.abs(image.astype(int) - color) < 60).all(axis=2))
        if label not in found:  # at most the half beyond its center is left of it
            assert len(rows) == 0 or min(np.ptp(rows), np.ptp(columns)) <= 75 + 2
            continue
        (box,) = boxes[labels == label]
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(box, expected, atol=3)


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_images_of_a_mosaic_are_as_the_network_sees_them_alone(fit: str) -> None:
    """Also where one side shrinks and the other grows, or the scaled side is no whole number of pixels."""
    form, noise = Input(320, fit), np.random.default_rng(0).integers(0, 256, (333, 500, 3), dtype=np.uint8)
    pictures = [noise, noise[:40], noise[:, :333], noise[:, :70]]
    wholes = [np.array([[0, 0, picture.shape[1], picture.shape[0]]], np.float32) for picture in pictures]
    parts = [(picture, box, np.array([n])) for n, (picture, box) in enumerate(zip(pictures, wholes, strict=True))]
    compared = 0
    for seed in range(20):
        image, boxes, labels = mosaic(parts, np.random.default_rng(seed), form)
        assert np.array_equal(boxes, boxes.round())  # where the pixels end
        for (left, top, right, bottom), label in zip(boxes.astype(int), labels, strict=True):
            alone = to_input(pictures[label], form)
            across, down = (round(320 * share) for share in seen_share(*pictures[label].shape[1::-1], form))
            if (right - left, bottom - top) == (across, down):  # not cut
                assert np.array_equal(image[top:bottom, left:right], alone[:down, :across])
                compared += 1
    assert compared > 5


def test_a_mixture_is_the_mean_of_both_by_a_share_near_one_half() -> None:
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (2, 300, 300, 3), dtype=np.uint8) for _ in range(2)]
    first, second = ((picture, np.full((n + 1, 4), n / 2), np.full(n + 1, n)) for n, picture in enumerate(pictures))
    views, boxes, labels = mixup(first, second, np.random.default_rng(5))
    assert labels.tolist() == [0, 1, 1]
    assert boxes[:, 0].tolist() == [0, 0.5, 0.5]
    share = np.random.default_rng(5).beta(32, 32)
    assert 0.3 < share < 0.7
    np.testing.assert_allclose(views, share * pictures[0] + (1 - share) * pictures[1], atol=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_noise(tmp_path, [10, 10, 50, 40])
    return tmp_path


def images(folder: Path, **settings: object) -> TrainingImages:
    annotations = load_annotations(folder / "truth.json", folder)
    return TrainingImages(annotations, TrainingAugmentation(DataSettings(**settings)), seed=3, cache=False)


def test_workers_give_the_batches_that_the_process_itself_gives(folder: Path) -> None:
    data, device = images(folder, mosaic=0.5, mixup=0.5), torch.device("cpu")
    batches = []
    for workers in (0, 2):
        sampler = EpochSampler(len(data), 3, seed=0)
        sampler.epoch = 4
        with Loader(data, 3, workers, device, sampler=sampler, collate_fn=collate) as loader:
            batches.append(list(loader))
    for own, theirs in zip(*batches, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(own, theirs, strict=True))


def test_probabilities_decide_how_many_are_mixed_and_0_changes_nothing(folder: Path) -> None:
    plain, mixed = images(folder), images(folder, mosaic=0.3, mixup=0.2)
    keys = [(epoch, number) for epoch in range(40) for number in range(6)]
    same = [np.array_equal(plain[key][0], mixed[key][0]) for key in keys]
    assert 0.7 * 0.8 - 0.1 < np.mean(same) < 0.7 * 0.8 + 0.1
