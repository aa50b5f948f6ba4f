"""The paper's published checkpoints, classifiers and SSD300 detectors, as checkpoints of this toolkit."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torchvision.models.detection import SSD300_VGG16_Weights

from classification.backbones.dividing import check_members
from classification.backbones.registry import BACKBONES
from classification.importing import import_classifier, read_published, rename
from detection.models.ssd import create_ssd
from detection.training.config import ModelSettings, TrainDetection
from divdet.engine import checkpoint
from divdet.engine.cli import to_dict
from divdet.engine.errors import UserError
from divdet.engine.files import make_folder

# COCO's 80 classes by category id, whose gaps torchvision lists as N/A and whose 0 is the background
_COCO = [
    {"id": number, "name": name}
    for number, name in enumerate(SSD300_VGG16_Weights.COCO_V1.meta["categories"])
    if number and name != "N/A"
]


@dataclass
class ImportCheckpoint:
    """Turns one of the paper's published checkpoints into one that every tool here takes.

    Attributes:
        source: the published file.
        task: cls or det.
        backbone: name of the network before dividing.
        members: S.
        dataset: what it was trained on: cifar10, cifar100, svhn or imagenet (cls); coco (det).
        output: the checkpoint to write.
        device: importing needs none; present on every command.
        seed: importing draws nothing; present on every command.
    """

    source: str | None = None
    task: Literal["cls", "det"] = "cls"
    backbone: str | None = None
    members: int = 1
    dataset: str | None = None
    output: str | None = None
    device: str = "auto"
    seed: int = 0


def import_checkpoint(config: ImportCheckpoint) -> dict[str, Any]:
    """Runs import_checkpoint.py: writes the checkpoint and returns it.

    Every weight of the file finds its place, or is named in the error; what a published network holds but never uses
    is left out and counted.

    Raises:
        UserError: for a missing argument, an unreadable file, weights that do not fit, or an unwritable output.
    """
    for name in ("source", "backbone", "output"):
        if getattr(config, name) is None:
            known = f": one of {', '.join(BACKBONES)}" if name == "backbone" else ""
            raise UserError(f"--{name} is missing{known}")
    check_members(config.members)
    output = Path(config.output)
    if os.path.isdir(output) or output.resolve() == Path(config.source).resolve():
        raise UserError(f"{output}: name the file to write, another than --source and not a folder")
    if config.task == "cls":
        dataset = config.dataset or "imagenet"
        found = import_classifier(config.source, config.backbone, config.members, dataset)
    else:
        if config.dataset not in (None, "coco"):
            raise UserError(f"--dataset {config.dataset}: the published detectors are of coco")
        found = import_detector(config.source, config.backbone, config.members)
    make_folder(output.parent)
    checkpoint.save(found, output)
    count = sum(value.numel() for value in found["model"].values())
    print(f"{config.source}: {len(found['model'])} tensors, {count / 1e6:.2f} M values, all placed")
    print(f"wrote {output}")
    return found


def import_detector(source: str, backbone: str, members: int) -> dict[str, Any]:
    """A published COCO detector as a checkpoint that `Detector.load` reads, with the default, released post-processing.

    Raises:
        UserError: as `classification.importing.import_classifier`.
    """
    with torch.device("meta"):
        own = create_ssd(backbone, members, len(_COCO)).state_dict()
    weights = rename(read_published(source), own_name, source)
    checkpoint.check_weights(own, weights, source)
    weights = {key: weights[key].to(value.dtype) for key, value in own.items()}
    config = TrainDetection(model=ModelSettings(backbone, members))
    return {"kind": "detection", "model": weights, "config": to_dict(config), "meta": {"categories": _COCO}}


def own_name(released: str) -> str:
    """Our name of a detector's weight: ``members.<i>.layer<j>`` and ``extras`` for what the published files call
    ``feature_extractor.backbone.<i>.<j>`` and ``additional_blocks``; the heads have the same names in both.
    """
    name = re.sub(r"^feature_extractor\.backbone\.(\d+)\.(\d+)\.", r"members.\1.layer\2.", released)
    return re.sub(r"^additional_blocks\.", "extras.", name)
