"""The settings of detectors: ranges, and how command lines are read."""

from dataclasses import asdict

import numpy as np
import pytest
import yaml

from detection.prediction_settings import PostprocessSettings
from detection.settings import DataSettings, DetectionTrainSettings, TrainDetection
from divdet.engine.cli import parse, to_yaml
from divdet.engine.errors import UserError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("score_threshold", -0.1), ("score_threshold", 1.5), ("score_threshold", float("nan")), ("nms_iou", 2.0),
        ("fusion_iou", -1.0), ("nms_iou", None), ("nms_iou", True), ("fusion_skip", 1.1), ("candidates_per_class", 0),
        ("max_per_member", 0),
    ],
)  # fmt: skip
def test_settings_out_of_range_name_their_field(field: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"postprocess\.{field} is {value}"):
        PostprocessSettings(**{field: value})


def test_numbers_of_numpy_become_pythons() -> None:
    """So that they can be written as JSON and YAML."""
    numbers = {"nms_iou": np.float32(0.5), "candidates_per_class": np.int64(3), "class_agnostic": np.True_}
    settings = PostprocessSettings(**numbers, member_weights=np.array([2, 1]), classes=("a", "b"))
    assert yaml.safe_load(to_yaml(settings)) == asdict(settings)
    assert settings == PostprocessSettings(
        nms_iou=0.5, candidates_per_class=3, class_agnostic=True, member_weights=[2, 1], classes=["a", "b"]
    )


def test_an_unknown_rule_of_fusion_is_refused() -> None:
    with pytest.raises(UserError, match=r"postprocess\.fusion_conf is 'foo': choose one of avg, max"):
        PostprocessSettings(fusion_conf="foo")


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        (DetectionTrainSettings, "train.fraction", 0.0), (DetectionTrainSettings, "train.fraction", 1.01),
        (DetectionTrainSettings, "train.freeze", -1), (DetectionTrainSettings, "train.backbone_lr", -0.5),
        (DetectionTrainSettings, "train.patience", -1), (DetectionTrainSettings, "train.min_steps", -1),
        (DataSettings, "data.mosaic", 1.5), (DataSettings, "data.mixup", -0.1),
        (DataSettings, "data.class_balanced", 2.0),
    ],
)  # fmt: skip
def test_options_of_training_out_of_range_name_their_field(section: type, field: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"{field} is {value}"):
        section(**{field.partition(".")[2]: value})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--train.class_weights", "auto"], "auto"),
        (["--train.class_weights", "[1, 2.5]"], [1.0, 2.5]),
        (["--train.class_weights", "{cat: 2, dog: 0.5}"], {"cat": 2.0, "dog": 0.5}),
        (["--train.class_weights", "null"], None),
    ],
)
def test_weights_of_classes_are_read_in_every_form(words: list[str], expected: object) -> None:
    assert parse(TrainDetection, words).train.class_weights == expected


def test_a_wrong_choice_lists_the_choices_in_plain_words() -> None:
    with pytest.raises(UserError, match=r"train\.freeze: Expected one of whole number, 'all'\. Got value: al "):
        parse(TrainDetection, ["--train.freeze", "al"])
    with pytest.raises(
        UserError, match=r"class_weights: Expected one of 'auto', list of numbers, numbers by name .{10}, null"
    ):
        parse(TrainDetection, ["--train.class_weights", "most"])
    assert parse(TrainDetection, ["--train.freeze", "all"]).train.freeze == "all"


def test_settings_can_be_read_by_the_configuration_library() -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PostprocessSettings, "postprocess")
    read = parser.parse_args(["--postprocess.fusion_conf=max", "--postprocess.max_per_member=30"])
    assert parser.instantiate(read).postprocess == PostprocessSettings(fusion_conf="max", max_per_member=30)
