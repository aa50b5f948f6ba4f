"""The paper's published SSD300 detectors as checkpoints of this toolkit."""

from __future__ import annotations

import re

import torch

from classification.importing import read_published, rename
from detection.models.coco_classes import COCO
from detection.models.ssd import create_ssd
from detection.settings import ModelSettings, TrainDetection
from divdet.engine import checkpoint
from divdet.engine.cli import to_dict


def import_detector(source: str, backbone: str, members: int) -> checkpoint.Checkpoint:
    """Converts a published COCO detector to a checkpoint for ``Detector.load``, with the released post-processing."""
    with torch.device("meta"):
        own = create_ssd(backbone, members, len(COCO)).state_dict()
    weights = rename(read_published(source), _own_name, source)
    checkpoint.check_weights(own, weights, source)
    weights = {key: weights[key].to(value.dtype) for key, value in own.items()}
    config = TrainDetection(model=ModelSettings(backbone, members))
    return checkpoint.Checkpoint("detection", weights, to_dict(config), {"categories": COCO})


def _own_name(released: str) -> str:
    """Translates a published weight's name to this project's; the heads have the same names."""
    name = re.sub(r"^feature_extractor\.backbone\.(\d+)\.(\d+)\.", r"members.\1.layer\2.", released)
    return re.sub(r"^additional_blocks\.", "extras.", name)
