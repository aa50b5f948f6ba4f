"""Training images: the same from the cache as from their files, batches padded, pixels normalised."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detection.data import dataset
from detection.data.annotations import CocoAnnotations
from detection.data.augmentation import TrainingAugmentation
from detection.data.coco import load_annotations
from detection.data.dataset import TrainingImages, collate
from detection.preprocess import Normalize
from detection.settings import DataSettings
from divdet.engine.sampling import EpochSampler


@pytest.fixture
def annotations(tmp_path: Path) -> CocoAnnotations:
    """Four images of several sizes; the last is without size in the file, and its second box passes its border."""
    rng = np.random.default_rng(0)
    sizes = [(90, 60), (64, 80), (120, 120), (70, 50)]
    images, entries = [], []
    for number, (width, height) in enumerate(sizes, 1):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        for box in ([5, 5, 30, 30], [40, 20, 90 if number == 4 else 20, 25]):
            entries.append({"id": len(entries) + 1, "image_id": number, "category_id": 1, "bbox": box, "iscrowd": 0})
    del images[3]["width"], images[3]["height"]
    data = {"images": images, "annotations": entries, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "truth.json").write_text(json.dumps(data))
    return load_annotations(tmp_path / "truth.json", tmp_path)


def images(annotations: CocoAnnotations, cache: bool, **settings: object) -> TrainingImages:
    return TrainingImages(annotations, TrainingAugmentation(DataSettings(**settings)), seed=3, cache=cache)


def test_cached_images_give_the_same_samples(
    annotations: CocoAnnotations, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    plain, cached = images(annotations, False), images(annotations, True)
    assert len(cached.cached) == 4
    monkeypatch.setattr(dataset, "CACHE_BYTES", 3 * (90 * 60 + 64 * 80) + 10)
    partly = images(annotations, True)
    assert "the first 2 of 4 images fill its" in capsys.readouterr().out
    before = {index: image.copy() for index, image in cached.cached.items()}
    for key in [(epoch, index) for epoch in range(6) for index in range(4)]:
        for other in (cached, partly):
            for ours, theirs in zip(plain[key], other[key], strict=True):
                np.testing.assert_array_equal(ours, theirs)
    for index, image in cached.cached.items():
        np.testing.assert_array_equal(image, before[index])  # nothing is drawn into it


def test_boxes_are_cut_where_only_the_image_tells_its_size(annotations: CocoAnnotations) -> None:
    plain = images(annotations, False, photometric=False, zoom_out=0, iou_crop=0, flip=0)
    _, boxes, _ = plain[0, 3]
    expected = np.array([[5, 5, 35, 35], [40, 20, 70, 45]]) / (70, 50, 70, 50)
    np.testing.assert_allclose(boxes, expected, atol=1e-6)


def test_repetitions_of_an_image_are_other_views_of_it(annotations: CocoAnnotations) -> None:
    data = images(annotations, False)
    views = [data[key][0].tobytes() for key in EpochSampler(len(data), 16, seed=0)]
    assert len(set(views)) >= 14  # of 16: colors and flip may leave an image as it is
    plain = images(annotations, False, photometric=False, zoom_out=0, iou_crop=0, flip=0)
    assert np.array_equal(plain[0, 2][0], plain[0, 2 + 3 * len(plain)][0])


def test_batches_are_padded_and_normalised(annotations: CocoAnnotations) -> None:
    samples = [images(annotations, False)[0, index] for index in range(2)]
    samples.append((samples[0][0], np.zeros((0, 4), np.float32), np.zeros(0, np.int64)))
    pictures, boxes, labels = collate(samples)
    assert labels[2].tolist() == [-1] * labels.shape[1]
    assert not boxes[2].any()
    kept = pictures.clone()
    inputs = Normalize()(pictures)
    assert torch.equal(pictures, kept)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = ((pictures / 255 - mean) / std).movedim(-1, -3)
    torch.testing.assert_close(inputs, expected, atol=1e-5, rtol=1e-5)
