"""COCO ground truth and results files."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from detection.data.augmentation import TrainingAugmentation
from detection.data.coco import CocoAnnotations, load_annotations
from detection.data.coco_results import Results as Detections
from detection.data.coco_results import load_results
from detection.data.dataset import TrainingImages, collate, read_record
from detection.evaluation.coco_metrics import CocoEvaluator, evaluate, format_metrics
from detection.settings import DataSettings
from tests.fuzz.mutation import as_json, damaged, document

GROUND_TRUTH: dict[str, Any] = {
    "info": {"year": 2017},
    "images": [
        {"id": 7, "file_name": "a.png", "width": 30, "height": 20, "license": 1},
        {"id": 3, "file_name": "sub/b.png", "width": 20, "height": 20},
        {"id": 9, "file_name": "c.jpg"},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 7,
            "category_id": 18,
            "bbox": [1, 2, 20, 15.5],
            "area": 310,
            "iscrowd": 0,
            "segmentation": [[1, 2, 21, 2, 21, 17.5]],
        },
        {"id": 2, "image_id": 3, "category_id": 1, "bbox": [0.5, 0.25, 19.5, 19.75], "area": 100, "iscrowd": 1},
        {"id": 77, "image_id": 9, "category_id": 1, "bbox": [3, 4, 10, 5.5]},
        {"id": 78, "image_id": 9, "category_id": 1, "segmentation": {"size": [20, 30], "counts": [41, 5, 554]}},
        {"id": 79, "image_id": 9, "category_id": 1, "segmentation": {"size": [20, 30], "counts": "Y15Za0"}},
    ],
    "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 1, "name": "person"}],
}
RESULTS: list[dict[str, Any]] = [
    {"image_id": 7, "category_id": 18, "bbox": [1, 2, 20, 15.5], "score": 0.9},
    {"image_id": 3, "category_id": 1, "bbox": [0.5, 0.25, 19, 19], "score": 0.5, "segmentation": {"size": [20, 20]}},
    {"image_id": 9, "category_id": 1, "bbox": [3, 4, 10, 5.5], "score": 1e-9, "keypoints": [1, 2, 3], "id": 5},
]


def write_images(root: Path) -> Path:
    """The folder of `GROUND_TRUTH`, with links out of it to an image beside it."""
    folder = root / "data"
    (folder / "sub").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    for name, width in (("a.png", 30), ("sub/b.png", 20), ("c.jpg", 30)):
        Image.fromarray(noise[:, :width]).save(folder / name)
    Image.fromarray(noise).save(root / "outside.png")
    (folder / "link.png").symlink_to("../outside.png")
    (folder / "away").symlink_to("..")
    return folder


def load_ground_truth(root: Path) -> CocoAnnotations:
    """Writes and loads `GROUND_TRUTH`; evaluates once, since a first import may write bytecode and a case may not."""
    path = root / "truth.json"
    path.write_text(json.dumps(GROUND_TRUTH))
    annotations = load_annotations(path, None)
    CocoEvaluator(annotations).metrics()
    return annotations


class Annotations:
    """Ground truth, down to training samples and the COCO numbers."""

    names = ("case.json", "/data/")

    def __init__(self, root: Path) -> None:
        self.path, self.images = root / "case.json", write_images(root)
        load_ground_truth(root)
        self.augmentation = TrainingAugmentation(DataSettings(iou_crop=0.5))

    def write(self, draw: Random) -> None:
        """The next case."""
        if draw.randrange(4):
            content = as_json(draw, document(draw, GROUND_TRUTH))
        else:
            content = damaged(draw, json.dumps(GROUND_TRUTH).encode(), json.dumps(RESULTS).encode())
        self.path.write_bytes(content)

    def read(self) -> None:
        """What training and evaluation do with it."""
        annotations = load_annotations(self.path, self.images)
        annotations.describe()
        truth = annotations.truth
        scores = np.full(len(truth.image), 0.5)
        metrics = evaluate(annotations, Detections(truth.image, truth.label, truth.bbox, scores))
        format_metrics(metrics)
        json.dumps(metrics, allow_nan=False).encode()
        samples = TrainingImages(annotations, self.augmentation, 0, cache=False)
        collate([samples[0, index] for index in range(len(samples))])
        for record in annotations.images:
            read_record(record)


class Results:
    """Results files of any detector."""

    names = ("case.json",)

    def __init__(self, root: Path) -> None:
        self.path = root / "case.json"
        self.truth = load_ground_truth(root)

    def write(self, draw: Random) -> None:
        """The next case."""
        if draw.randrange(4):
            content = as_json(draw, document(draw, RESULTS))
        else:
            content = damaged(draw, json.dumps(RESULTS).encode(), json.dumps(GROUND_TRUTH).encode())
        self.path.write_bytes(content)

    def read(self) -> None:
        """Scores it."""
        metrics = evaluate(self.truth, load_results(self.path, self.truth))
        format_metrics(metrics)
        json.dumps(metrics, allow_nan=False)
