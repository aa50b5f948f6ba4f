"""Published detectors as checkpoints of this toolkit: the paper's SSD300, and those that other heads know."""

from __future__ import annotations

import re

import torch

from classification.importing import read_published, rename
from detection.heads import find_head
from detection.models.coco_classes import COCO
from detection.models.head import create_detector
from detection.prediction_settings import PostprocessSettings
from detection.settings import ModelSettings, TrainDetection
from divdet.engine import checkpoint
from divdet.engine.cli import to_dict
from divdet.engine.errors import UserError

# Of torchvision's detectors, as the recipes for COCO have it; the paper's is the default.
_POSTPROCESS = {
    "ssdlite": PostprocessSettings(score_threshold=0.001, candidates_per_class=300, nms_iou=0.55, max_per_member=300),
    "fcos": PostprocessSettings(candidates_per_class=1000, nms_iou=0.6, max_per_member=100),
}


def import_detector(
    source: str, backbone: str, members: int, head: str = "ssd300", input_size: int | None = None
) -> checkpoint.Checkpoint:
    """Converts a published COCO detector to a checkpoint for ``Detector.load``, with its source's post-processing."""
    with torch.device("meta"):
        model = create_detector(head, backbone, members, len(COCO), input_size)
    own, published = model.state_dict(), read_published(source)
    renamed = head == "ssd300"
    weights = rename(published, _own_name, source) if renamed else model.published_weights(published, source)
    if weights is None:
        raise UserError(f"{source}: holds no published weights of {find_head(head).title}; choose another --head")
    checkpoint.check_weights(own, weights, source)
    weights = {key: weights[key].to(value.dtype) for key, value in own.items()}
    config = TrainDetection(
        model=ModelSettings(backbone, members, head=head, input_size=model.input.size),
        postprocess=_POSTPROCESS.get(head, PostprocessSettings()),
    )
    return checkpoint.Checkpoint("detection", weights, to_dict(config), {"categories": COCO})


def _own_name(released: str) -> str:
    """Translates a published weight's name to this project's; the heads have the same names."""
    name = re.sub(r"^feature_extractor\.backbone\.(\d+)\.(\d+)\.", r"members.\1.layer\2.", released)
    return re.sub(r"^additional_blocks\.", "extras.", name)
