"""The whole pipeline on generated data: co-train backbones, train SSD300 on them, evaluate, draw."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

from detection.data.coco import load_annotations
from detection.data.synthetic import generate
from detection.detector import Detector
from detection.visual.comparison import draw_comparisons
from divdet.api import evaluate, train
from divdet.commands.network_settings import Quickstart
from divdet.engine.devices import use_device
from divdet.engine.errors import UserError
from divdet.engine.stopping import Stopped

_PARTS = ("backbones", "detector", "pictures")


def quickstart(config: Quickstart) -> dict[str, Any]:
    """Runs the pipeline; returns the metrics of the fused detections.

    ``output`` then holds ``data/`` (generated), ``backbones/`` and ``detector/`` (the runs of train-cls and train-det),
    ``detector/eval/metrics.json`` and ``pictures/`` (ground truth, each member, fused).
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

    print("2/5  co-training a backbone divided into two members on crops of the objects")
    crops, backbones = str(folder / "data/crops"), str(folder / "backbones")
    _train("shapes_backbones", task="cls", data={"root": crops}, output=backbones, **common)

    print("3/5  training SSD300 on the two backbones")
    data = {f"{split}_images": str(folder / "data/images" / split) for split in ("train", "val")}
    for split in ("train", "val"):
        data[f"{split}_annotations"] = str(folder / f"data/annotations/instances_{split}.json")
    start = {"pretrained": f"{backbones}/last.pt"}
    epochs = {"epochs": config.epochs}
    _train("shapes", model=start, data=data, train=epochs, output=str(folder / "detector"), **common)

    print("4/5  evaluating")
    best = folder / "detector/best.pt"
    metrics = evaluate(best, device=config.device)

    print("5/5  drawing ground truth, each member's boxes and the fused boxes")
    ground_truth = load_annotations(data["val_annotations"], data["val_images"])
    draw_comparisons(Detector.load(best, config.device), ground_truth, folder / "pictures", 8)
    minutes = (time.perf_counter() - began) / 60
    print(f"done in {minutes:.1f} min: AP50 {metrics['AP50']:.3f}; look at {folder / 'pictures'}")
    return metrics


def _train(recipe: str, **fields: Any) -> None:
    """Trains. A stopped run says how to resume it, which the quickstart does not."""
    try:
        train(recipe, **fields)
    except Stopped as stopped:
        text = "stopped: run the quickstart again; it keeps the generated images and trains anew"
        raise Stopped(stopped.exit_code - 128, text) from None
