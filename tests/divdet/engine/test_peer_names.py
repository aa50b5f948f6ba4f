"""Option names of other trainers."""

import pkgutil
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from detection.settings import TrainDetection
from divdet.commands import COMMANDS
from divdet.commands.network_settings import Summary
from divdet.commands.settings import Detect, EvaluateDetection, Export, Fuse, Sweep
from divdet.engine.cli import flatten, parse, to_dict
from divdet.engine.errors import UserError
from divdet.engine.peer_names import close_field, fields_of, translate
from divdet.engine.peer_options import OPTIONS


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
    words = "--weights best.pt --source a.jpg --conf 0.4 --iou=0.6 b.jpg --batch 2 --agnostic_nms --augment"
    config = parse(Detect, words.split(), positional="sources")
    assert (config.checkpoint, config.sources, config.score_threshold) == ("best.pt", ["a.jpg", "b.jpg"], 0.4)
    assert (config.postprocess.nms_iou, config.batch_size) == (0.6, 2)
    assert (config.postprocess.class_agnostic, config.tta) == (True, "flip,scales")
    words = "a.jpg --slice_height 300 --overlap-height-ratio 0.3 --classes 1 3 --class_thresholds {dog:.6,3:.1}"
    config = parse(Detect, words.replace(":", ": ").split(" --c")[0].split(), positional="sources")
    assert (config.tile, config.overlap) == (300, 0.3)
    config = parse(EvaluateDetection, ["--model", "best.pt", "--conf", "0.2"])
    assert (config.checkpoint, config.postprocess.score_threshold) == ("best.pt", 0.2)


def test_a_source_may_have_an_equals_sign_in_its_name() -> None:
    assert parse(Detect, ["a=b.jpg"], positional="sources").sources == ["a=b.jpg"]


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("--cache ram", {"data.cache": True}),
        ("--data.cache=ram", {"data.cache": True}),
        ("pretrained=False", {}),
        ("--lr-scheduler cosineannealinglr", {}),
        ("--lr-scheduler multisteplr --lr-steps 4 5", {"train.schedule": "step", "train.milestones": [4, 5]}),
        ("cos_lr=True --warmup_epochs 3", {"train.warmup_epochs": 3.0}),
        ("--trainable-backbone-layers 0", {"train.freeze": "all"}),
        ("--seed 3 --work-dir w --data-path p", {"seed": 3, "output": "w", "data.path": "p"}),
        ("--resume True", {"resume": "auto"}),
        ("--resume=False", {}),
        ("amp=False", {"train.precision": "float32"}),
        ("--fp16", {"train.precision": "fp16"}),
        ("-b 6 -j 4", {"train.batch_size": 6, "train.workers": 4}),
        ("-b6 --resume -j4", {"train.batch_size": 6, "resume": "auto", "train.workers": 4}),
        ("--sync-bn", {"train.batch_norm": "sync"}),
        ("--report-to csv,wandb --log-interval 9", {"train.loggers": ["csv", "wandb"], "train.log_every": 9}),
        # What is done anyway
        ("optimizer=auto rect=False val=True plots=True save=True close_mosaic=0", {}),
        ("optimizer=AdamW lr0=0.001", {"train.optimizer": "adamw", "train.lr": 0.001}),
        ("--opt sgd", {}),
        ("--multi_scale --lr 0.1", {"train.multi_scale": 0.5, "train.lr": 0.1}),
        ("multi_scale=False", {}),
        ("multi_scale=0.25", {"train.multi_scale": 0.25}),
        ("imgsz=512 --model.head ssd512", {"model.input_size": 512, "model.head": "ssd512"}),
    ],
)
def test_values_of_other_trainers(words: str, changed: dict[str, Any]) -> None:
    default, config = (flatten(to_dict(parse(TrainDetection, given))) for given in ([], words.split()))
    assert {key: value for key, value in config.items() if value != default[key]} == changed


def test_a_model_that_is_a_file_is_where_training_starts(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"")
    for words in (["--model", str(tmp_path / "x.pt")], [f"model={tmp_path / 'x.pt'}"]):
        assert parse(TrainDetection, words).model.pretrained == str(tmp_path / "x.pt")
    assert parse(TrainDetection, ["--model", "{backbone: wrn50_3}"]).model.backbone == "wrn50_3"
    with pytest.raises(UserError, match=r"^--model: there is no such option: .*model\.pretrained.*model\.backbone"):
        parse(TrainDetection, ["--model", "yolov8n.pt"])


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("--amp x", "train.precision"),
        ("--project x", "--output"),
        ("--nc 3", "those of the annotations"),
        ("--pretrained", "model.pretrained"),
        ("pretrained=True", "model.pretrained"),
        ("--weights-backbone ResNet50_Weights.DEFAULT", "model.pretrained"),
        ("--cache disk", "data.cache"),
        ("--val=False", "train.evaluate_every"),
        ("--augment", "data.flip"),
        ("--close_mosaic 10", "data.mosaic"),
        ("--dropout 0.1", "train.weight_decay"),
        ("--trainable-backbone-layers 3", "train.freeze"),
        ("--lr-scheduler exponentiallr", "train.schedule"),
        ("--lr-gamma 0.5", "train.milestones"),
        ("--lr-step-size 8", "train.milestones"),
        ("--label_smoothing 0.1", "train.class_weights"),
        ("--opt rmsprop", "train.optimizer is sgd or adamw"),
        ("--deterministic", "--seed"),
        ("--use-deterministic-algorithms", "--seed"),
        ("--rect", "model.head"),
        ("--verbose=False", "--output"),
        ("--half", "train.precision"),
        ("--max_det 100", "postprocess.max_per_member.*each member before"),
        ("--cfg-options a=b c=d", "--train.epochs 30"),
        ("--auto-scale-lr", "train.lr"),
        ("--print-freq 20", "train.evaluate_every"),
        ("--test-only", "eval-det"),
        ("--world-size 4", "torchrun"),
        ("--dataset coco", "data.path"),
    ],
)
def test_options_without_a_field_are_answered(words: str, answer: str) -> None:
    name = re.match(r"-*([\w.-]+)", words)[1]
    with pytest.raises(UserError, match=rf"^--{name}\b.*: .*{answer}") as caught:
        parse(TrainDetection, words.split())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("--save_txt", "--save yolo"),
        ("--save_conf", r"detections\.json"),
        ("--save_crop", "--save crops"),
        ("--vid_stride 2", "--frames all or newest"),
        ("--line_width 2", "--output"),
        ("--dnn", "--runtime"),
        ("--max_det 9", "max_per_member"),
    ],
)
def test_options_of_prediction_are_answered(words: str, answer: str) -> None:
    with pytest.raises(UserError, match=f"^{words.split()[0]}: there is no such option: .*{answer}"):
        parse(Detect, ["a.jpg", *words.split()], positional="sources")


def test_options_of_prediction_that_are_understood() -> None:
    for words in ("a.jpg --half --stream b.jpg", "source=a.jpg half=True stream=True b.jpg"):
        config = parse(Detect, words.split(), positional="sources")
        assert (config.precision, config.sources) == ("fp16", ["a.jpg", "b.jpg"])


def test_options_of_evaluation_and_fusion_are_understood() -> None:
    assert parse(EvaluateDetection, ["--pred-score-thr", "0.2"]).postprocess.score_threshold == 0.2
    assert parse(EvaluateDetection, ["--out-dir", "x"]).output == "x"
    config = parse(Fuse, ["a.json", "b.json", "--conf", "0.2", "--iou", "0.6"], positional="results")
    assert (config.skip_box_thr, config.iou_thr) == (0.2, 0.6)
    with pytest.raises(UserError, match=r"^--workers: there is no such option: images are read beside the network"):
        parse(EvaluateDetection, ["--workers", "0"])
    with pytest.raises(UserError, match=r"^--int8: there is no such option: --format openvino with --precision int8"):
        parse(Export, ["--int8"])


def test_several_checkpoints_are_one_value(tmp_path: Path) -> None:
    words = ["--checkpoint", *(str(tmp_path / name) for name in ("a.pt", "b.pt"))]
    for word in words[1:]:
        Path(word).touch()
    with pytest.raises(UserError, match=r"b\.pt; several checkpoints are fused as --checkpoint A,B"):
        parse(EvaluateDetection, words)
    with pytest.raises(UserError, match=r"b\.pt \(see"):
        parse(Sweep, words)


def test_an_option_of_another_command_is_said_to_be_one() -> None:
    with pytest.raises(UserError, match=r"--close_mosaic; for other commands: --data\.mosaic"):
        parse(Detect, ["--close_mosaic", "10"], positional="sources")
    with pytest.raises(UserError, match=r"--show_conf; for other commands: pictures"):  # not postprocess.fusion_conf
        parse(TrainDetection, ["--show_conf"])
    with pytest.raises(UserError, match=r"--model\.name x \("):
        parse(TrainDetection, ["--model.name", "x"])


def test_a_checkpoint_is_timed_by_plan() -> None:
    with pytest.raises(UserError, match="divdet plan FILE times a checkpoint"):
        parse(Summary, ["--checkpoint", "x.pt"])
    with pytest.raises(UserError, match=r"--model\.pretrained FILE is what training starts from"):
        parse(TrainDetection, ["--checkpoint", "x.pt"])


def test_a_recipe_with_another_trainers_options_is_answered(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    for text, answer in (
        ("optimizer: AdamW", r"train\.optimizer"),
        ("train: {optimizer: Lion}", r"train\.optimizer"),
        ("lr0: 1", r"train\.lr\?"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=answer):
            parse(TrainDetection, ["--config", str(file)])


def test_the_table_names_fields_that_exist() -> None:
    """Every answer is for one command at least; of the fields that an option may mean none is misspelt."""
    kinds = [pkgutil.resolve_name(command.settings) for command in COMMANDS.values()]
    commands = [fields_of(kind) for kind in kinds]
    known = {key for fields in commands for key in fields}
    for name, option in OPTIONS.items():
        assert {*option.fields, *filter(None, [option.file])} <= known, name
        for answer in option.answers:
            alone = replace(option, answers=(answer,))
            assert any(alone.answer({*fields, "config"}) for fields in commands), name


def test_all_words_without_a_field_are_answered_at_once() -> None:
    with pytest.raises(UserError, match=r"^--lrf: .*train\.end_lr.*; --exist-ok: .*; --degrees: .*albumentations"):
        parse(TrainDetection, ["--lrf", "0.1", "--exist-ok", "--epochs", "3", "degrees=10"])
    wrong = r"^--lrf: .*; --bathc_size: there is no such option; did you mean --train\.batch_size\?; --zzz: .*option$"
    with pytest.raises(UserError, match=wrong):
        parse(TrainDetection, ["--config", "bccd", "--bathc_size", "3", "--lrf", "0.1", "--zzz=1", "--data", "x"])


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
