"""Option names of other trainers."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from detection.settings import TrainDetection
from divdet.commands.settings import Detect, EvaluateDetection
from divdet.engine.cli import parse
from divdet.engine.errors import UserError
from divdet.engine.peer_names import close_field, fields_of, translate


@dataclass
class Model:
    """A network."""

    input_size: int = 300
    pretrained: str | None = None


@dataclass
class Data:
    """A data set."""

    path: str | None = None
    cache: bool = False


@dataclass
class Train:
    """A schedule."""

    epochs: int = 3
    lr: float = 0.1
    patience: int = 0
    milestones: list[int] = field(default_factory=list)


@dataclass
class Config:
    """A command."""

    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    train: Train = field(default_factory=Train)
    resume: str | None = None
    sources: list[str] = field(default_factory=list)


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("--data bccd.yaml --imgsz 512 --weights a.pth", {"data.path": "bccd.yaml", "model.input_size": 512}),
        ("--epochs 9 --lr0 0.5", {"train.epochs": 9, "train.lr": 0.5}),
        ("--num-epochs=9 --learning-rate=0.5 --patience 4", {"train.epochs": 9, "train.lr": 0.5, "train.patience": 4}),
        ("epochs=9 data=my.yaml cache=True", {"train.epochs": 9, "data.path": "my.yaml", "data.cache": True}),
        ("--data.cache --train.epochs 9", {"data.cache": True, "train.epochs": 9}),
        ("--data.cache false --cache True", {"data.cache": True}),
        ("--data.cache", {"data.cache": True}),
        ("--train.milestones 4,5", {"train.milestones": [4, 5]}),
        ("--train.milestones [4,5]", {"train.milestones": [4, 5]}),
        ("--lr-steps 4 5 --resume", {"train.milestones": [4, 5], "resume": "auto"}),
        ("--milestones 4", {"train.milestones": [4]}),
        ("--resume last.pt", {"resume": "last.pt"}),
        ("--train.lr -1", {"train.lr": -1.0}),
    ],
)
def test_other_trainers_words_set_the_fields_that_mean_the_same(words: str, keys: dict[str, Any]) -> None:
    config = parse(Config, words.split())
    for key, value in keys.items():
        section, _, name = key.rpartition(".")
        assert getattr(getattr(config, section) if section else config, name) == value


@pytest.mark.parametrize(
    ("words", "weights"),
    [
        ("--train.class_weights 1,2.5,3", [1, 2.5, 3]),
        ("--class-weights 1 .5 1e-3", [1, 0.5, 0.001]),
        ("--train.class_weights=[1, 2]", [1, 2]),
        ("--train.class_weights 2", [2]),
        ("--train.class_weights auto", "auto"),
        ("--train.class_weights null", None),
        ("--train.class_weights={a: 2, b: 1}", {"a": 2, "b": 1}),
    ],
)
def test_a_list_among_other_types(words: str, weights: Any) -> None:
    assert parse(TrainDetection, [words] if "=" in words else words.split()).train.class_weights == weights


def test_source_and_thresholds_of_a_detector() -> None:
    words = "--weights best.pt --source a.jpg --conf 0.4 --iou=0.6 b.jpg --batch 2"
    config = parse(Detect, words.split(), positional="sources")
    assert (config.checkpoint, config.sources, config.score_threshold) == ("best.pt", ["a.jpg", "b.jpg"], 0.4)
    assert (config.postprocess.nms_iou, config.batch_size) == (0.6, 2)
    config = parse(EvaluateDetection, ["--model", "best.pt", "--conf", "0.2"])
    assert (config.checkpoint, config.postprocess.score_threshold) == ("best.pt", 0.2)


def test_a_source_may_have_an_equals_sign_in_its_name() -> None:
    assert parse(Detect, ["a=b.jpg"], positional="sources").sources == ["a=b.jpg"]


@pytest.mark.parametrize(
    ("word", "answer"), [("--amp", "train.precision"), ("--project", "--output"), ("--nc", "those of the annotations")]
)
def test_words_without_a_field_are_answered(word: str, answer: str) -> None:
    with pytest.raises(UserError, match=f"^{word}: there is no such option: .*{answer}"):
        parse(TrainDetection, [word, "x"])


def test_all_words_without_a_field_are_answered_at_once() -> None:
    with pytest.raises(UserError, match=r"^--lrf: .*train\.end_lr.*; --exist-ok: .*; --degrees: .*albumentations"):
        parse(TrainDetection, ["--lrf", "0.1", "--exist-ok", "--epochs", "3", "degrees=10"])


@pytest.mark.parametrize(
    ("key", "close"),
    [
        ("train.epoch", "train.epochs"),
        ("train.max_epochs", "train.epochs"),
        ("trian", "train"),
        ("epoch", "train.epochs"),
        ("modle.inputs", "model"),
        ("modle.input_size", "model.input_size"),
        ("model.lr", "train.lr"),
        ("train.colour", None),
        ("mosaic", None),
        ("model.patinece", None),
    ],
)
def test_suggestions_stay_with_related_names(key: str, close: str | None) -> None:
    assert close_field(key, fields_of(Config)) == close


def test_what_is_unknown_stays_for_the_parser() -> None:
    fields = fields_of(Config)
    assert translate(["--nonsense", "3", "--config", "a=b", "--", "--epochs"], fields) == [
        *("--nonsense", "3", "--config", "a=b", "--", "--epochs")
    ]
