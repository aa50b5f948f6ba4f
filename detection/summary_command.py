"""The summary command: the cost of a classifier or a detector as a table or JSON."""

import json
from dataclasses import dataclass
from typing import Literal

from classification.backbones import BACKBONES
from classification.summary import summarise as summarise_classifier
from detection.summary import summarise as summarise_detector
from engine.errors import UserError


@dataclass
class Summary:
    """Prints parameters and operations of a backbone divided into S members, as classifier or as SSD300 detector.

    Attributes:
        task: cls or det.
        backbone: name of the backbone before dividing.
        members: S.
        dataset: cifar10, cifar100 or imagenet (cls); coco, or the number of foreground classes (det).
        json: print one JSON object.
        output: counting writes nothing; present on every command.
        device: counting needs none; present on every command.
        seed: counting draws nothing; present on every command.
    """

    task: Literal["cls", "det"] = "cls"
    backbone: str | None = None
    members: int = 1
    dataset: str | None = None
    json: bool = False
    output: str | None = None
    device: str = "auto"
    seed: int = 0


def print_summary(config: Summary) -> None:
    """Prints the cost; numbers are exact for parameters and MACs."""
    if not config.backbone:
        raise UserError(f"--backbone is missing: one of {', '.join(BACKBONES)}")
    if config.task == "cls":
        dataset = config.dataset or _usual_dataset(config.backbone)
        cost = summarise_classifier(config.backbone, config.members, dataset)
        title = f"{config.backbone} on {dataset}"
    else:
        cost = summarise_detector(config.backbone, config.members, _classes(config.dataset))
        title = f"SSD300 {config.backbone}, {_classes(config.dataset)} classes"
    if config.json:
        print(json.dumps({"task": config.task, "backbone": config.backbone, "members": config.members} | cost))
        return
    print(f"{title}, S={config.members}")
    for name, value in cost.items():
        shown = f"{value:.3f} G" if name == "gflops" else f"{value / 1e9:.3f} G" if name == "macs" else f"{value:,}"
        print(f"  {name:<18} {shown:>16}")


def _classes(dataset: str | None) -> int:
    if dataset in (None, "coco"):
        return 80
    if dataset.isascii() and dataset.isdigit() and int(dataset):
        return int(dataset)
    raise UserError(f"--dataset {dataset}: give coco or the number of foreground classes")


def _usual_dataset(backbone: str) -> str:
    spec = BACKBONES.get(backbone)
    return "imagenet" if spec and spec.forms == ("imagenet",) else "cifar100"
