"""A small generated data set for detectors, and a detector of random weights."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from detection import create_ssd
from detection.data.synthetic import generate
from detection.settings import DataSettings, ModelSettings, TrainDetection
from divdet.engine.cli import to_dict


def shapes(folder: Path, train: int = 8, val: int = 5) -> DataSettings:
    """Writes training and validation images of shapes into ``folder``."""
    generate(folder, train, val, seed=0)
    images, annotations = folder / "images", folder / "annotations"
    return DataSettings(
        val_annotations=str(annotations / "instances_val.json"),
        val_images=str(images / "val"),
        train_annotations=str(annotations / "instances_train.json"),
        train_images=str(images / "train"),
    )


def write_noise(folder: Path, bbox: list[float]) -> None:
    """Six images of noise with one object each, ``bbox``, and truth.json."""
    images, boxes = [], []
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (60 + 5 * number, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 80, "height": 60 + 5 * number})
        boxes.append({"id": number, "image_id": number, "category_id": 1, "bbox": bbox})
    data = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "truth.json").write_text(json.dumps(data))


def write_detector(path: Path, members: int, category: dict[str, int | str]) -> Path:
    """A checkpoint of a small SSD300 of one class, with random weights that are always the same."""
    torch.manual_seed(0)
    weights = create_ssd("resnet10_16", members, num_classes=1).state_dict()
    config = to_dict(TrainDetection(model=ModelSettings("resnet10_16", members)))
    torch.save({"kind": "detection", "model": weights, "config": config, "meta": {"categories": [category]}}, path)
    return path
