"""The whole pipeline on generated data: co-train backbones, train SSD300 on them, evaluate, draw."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

from classification.settings import ClassificationTrainSettings, TrainClassification
from classification.settings import DataSettings as ClassificationData
from classification.settings import ModelSettings as ClassificationModel
from classification.training import train as co_train
from detection.data.coco import load_annotations
from detection.data.synthetic import generate
from detection.detector import Detector
from detection.settings import DataSettings, DetectionTrainSettings, ModelSettings, PostprocessSettings, TrainDetection
from detection.training.train import train
from detection.visual.comparison import draw_comparisons
from divdet.commands.eval_det import evaluate
from divdet.commands.settings import EvaluateDetection, Quickstart
from divdet.engine.devices import use_device
from divdet.engine.errors import UserError

BACKBONE, MEMBERS = "resnet10_24", 2
_PARTS = ("backbones", "detector", "pictures")


def quickstart(config: Quickstart) -> dict[str, Any]:
    """Runs the pipeline; returns the metrics of the fused detections.

    ``output`` then holds ``data/`` (generated), ``backbones/`` and ``detector/`` (the runs of train_cls.py and
    train_det.py), ``detector/eval/metrics.json`` and ``pictures/`` (ground truth, each member, fused).
    """
    began = time.perf_counter()
    use_device(config.device)
    folder = Path(config.output)
    earlier = [folder / part for part in _PARTS if os.path.isdir(folder / part)]
    if earlier and not (folder / "data/generated.json").exists():
        raise UserError(f"{earlier[0]} is not of an earlier quickstart: choose another --output")
    common = {"device": config.device, "seed": config.seed}

    print(f"1/5  generating {config.size} training images under {folder / 'data'}")
    generate(folder / "data", config.size, config.size // 4, config.seed)
    for part in earlier:
        shutil.rmtree(part)

    print(f"2/5  co-training {BACKBONE} divided into {MEMBERS} members on crops of the objects")
    co_train(
        TrainClassification(
            model=ClassificationModel(BACKBONE, MEMBERS, stem="imagenet"),
            data=ClassificationData(
                dataset="folder", root=str(folder / "data/crops"), image_size=64, crop="padded", padding=6
            ),
            train=ClassificationTrainSettings(
                epochs=6,
                batch_size=64,
                lr=0.05,
                warmup_epochs=0.5,
                cot_warmup_epochs=3,
                weight_decay=5e-4,
                evaluate_every=2,
                workers=1,
            ),
            output=str(folder / "backbones"),
            **common,
        )
    )

    print("3/5  training SSD300 on the two backbones")
    data = folder / "data"
    settings = TrainDetection(
        model=ModelSettings(BACKBONE, MEMBERS, pretrained=str(folder / "backbones/last.pt")),
        data=DataSettings(
            train_annotations=str(data / "annotations/instances_train.json"),
            train_images=str(data / "images/train"),
            val_annotations=str(data / "annotations/instances_val.json"),
            val_images=str(data / "images/val"),
            iou_crop=0.3,
            zoom_out=0.2,
            zoom_out_ratio=2.0,
            cache=True,
        ),
        train=DetectionTrainSettings(
            epochs=config.epochs,
            batch_size=4,
            lr=0.02,
            nesterov=True,
            warmup_epochs=1,
            clip_gradient=10.0,
            evaluate_every=5,
            workers=1,
        ),
        postprocess=PostprocessSettings(nms_iou=0.45, fusion_iou=0.6),
        output=str(folder / "detector"),
        **common,
    )
    train(settings)

    print("4/5  evaluating")
    metrics = evaluate(
        EvaluateDetection(
            checkpoint=str(folder / "detector/best.pt"),
            data=settings.data,
            postprocess=settings.postprocess,
            device=config.device,
        )
    )

    print("5/5  drawing ground truth, each member's boxes and the fused boxes")
    detector = Detector.load(folder / "detector/best.pt", config.device)
    ground_truth = load_annotations(settings.data.val_annotations, settings.data.val_images)
    draw_comparisons(detector, ground_truth, folder / "pictures", 8)
    minutes = (time.perf_counter() - began) / 60
    print(f"done in {minutes:.1f} min: AP50 {metrics['AP50']:.3f}; look at {folder / 'pictures'}")
    return metrics
