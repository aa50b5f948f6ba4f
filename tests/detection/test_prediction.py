"""The detect command on sources that cannot be used."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from detection import create_ssd
from detection.config import Detect, ModelSettings, TrainDetection
from detection.prediction import detect
from detection.scoring import checkpoint_defaults
from engine import checkpoint
from engine.cli import parse, to_dict
from engine.errors import UserError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detector") / "best.pt"
    weights = create_ssd("resnet10_16", 1, num_classes=1).state_dict()
    config = to_dict(TrainDetection(model=ModelSettings("resnet10_16", 1)))
    meta = {"categories": [{"id": 1, "name": "square"}]}
    checkpoint.save({"kind": "detection", "model": weights, "config": config, "meta": meta}, path)
    return path


def test_earlier_detections_are_kept_where_no_image_can_be_read(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/broken.jpg").write_bytes(b"no image")
    earlier = tmp_path / "detections.json"
    earlier.write_text(json.dumps([{"image_id": 1}]))
    with pytest.raises(UserError, match=r"none of the 1 images could be read, the first: .*broken\.jpg"):
        detect(Detect(str(trained), [str(tmp_path / "images")], output=str(tmp_path), device="cpu"))
    assert json.loads(earlier.read_text()) == [{"image_id": 1}]


def test_names_that_are_too_long_are_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    config = Detect(str(trained), ["x" * 300 + ".jpg"], device="cpu")
    with pytest.raises(UserError, match="no image found"):
        detect(config)
    with pytest.raises(UserError, match="choose another --output"):
        detect(replace(config, sources=[str(tmp_path / "a.jpg")], output=str(tmp_path / ("y" * 300))))


def test_sources_stand_anywhere_and_the_output_is_named_after_the_recipe(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "street.yaml").write_text("score_threshold: 0.5\n")
    words = ["a.jpg", "--checkpoint", str(trained), "b.jpg", f"--config={tmp_path / 'street.yaml'}", "c.jpg"]
    config = parse(Detect, words, positional="sources", defaults=checkpoint_defaults)
    assert config.sources == ["a.jpg", "b.jpg", "c.jpg"]
    assert (config.checkpoint, config.score_threshold) == (str(trained), 0.5)
    assert config.output == str(Path("runs/street"))
    for misspelt in ("--chekpoint", "-c"):
        with pytest.raises(UserError, match=f"unrecognized arguments: {misspelt}"):
            parse(Detect, ["a.jpg", misspelt, "F", "b.jpg"], positional="sources")
    with pytest.raises(UserError, match="--checkpoint: expected one argument"):
        parse(Detect, ["a.jpg", "--checkpoint"], positional="sources")
