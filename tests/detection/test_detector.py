"""What a detector refuses: damaged checkpoints and images."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detection import Detector, create_ssd
from detection.config import EvaluateDetection, ModelSettings, TrainDetection
from detection.postprocess import PostprocessSettings
from detection.scoring import checkpoint_defaults
from engine.cli import to_dict
from engine.errors import UserError


def test_damaged_descriptions_are_refused_naming_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "bad.pt")
    faults = (
        ("model", "members", math.inf),
        ("model", "members", 10**12),
        ("model", "backbone", "resnet11"),
        ("postprocess", "fusion_conf", "foo"),
    )
    for section, key, value in faults:
        config = to_dict(TrainDetection(model=ModelSettings("resnet10_16", 1)))
        config[section][key] = value
        meta = {"categories": [{"id": 1, "name": "square"}]}
        torch.save({"kind": "detection", "model": {"w": torch.ones(1)}, "config": config, "meta": meta}, path)
        with pytest.raises(UserError, match=r"bad\.pt"):
            Detector.load(path, "cpu")
    with pytest.raises(UserError, match=r"bad\.pt.*fusion_conf"):
        checkpoint_defaults(EvaluateDetection(path))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_pil_image_that_is_cut_off_is_named(kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)).save(buffer, kind)
    cut = Image.open(io.BytesIO(buffer.getvalue()[:2000]))
    detector = Detector(create_ssd("resnet10_16", 1, 1), ["a"], [1], PostprocessSettings(), torch.device("cpu"))
    with pytest.raises(UserError, match=r"images\[1\] is a PIL image that cannot be decoded"):
        detector.predict([np.zeros((8, 8, 3), np.uint8), cut])
