"""Command lines and recipes: what a user sees when something in them is wrong."""

import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from classification.settings import EvaluateClassification, TrainClassification
from detection.settings import TrainDetection
from divdet.commands.settings import EvaluateDetection, Fuse
from divdet.engine.cli import parse, run, to_yaml
from divdet.engine.errors import UserError
from divdet.engine.recipes import RECIPES


@dataclass
class Section:
    """A section.

    Attributes:
        epochs: a number.
    """

    epochs: int = 3
    steps: list[int] = field(default_factory=list)
    limit: int | None = 5
    quick: bool = False
    rate: float = 0.5


@dataclass
class Config:
    """A command."""

    train: Section = field(default_factory=Section)
    output: str | None = None
    seed: int = 0


def test_yaml_then_command_line(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("train:\n  epochs: 7\n")
    assert parse(Config, ["--config", str(file)]).train.epochs == 7
    config = parse(Config, ["--config", str(file), "--train.epochs", "9"])
    assert config.train.epochs == 9
    assert config.output == str(Path("runs/recipe"))
    file.write_text(to_yaml(config))
    assert parse(Config, ["--config", str(file)]) == config


def test_help_explains_each_field_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Fuse, ["--help"], positional="results")
    text = " ".join(capsys.readouterr().out.split())
    assert "Attributes" not in text
    for words in ("two or more COCO results files", "ground truth of the images"):
        assert text.count(words) == 1
    assert text.startswith("usage: ")
    assert " [options] [results ...] Fuses COCO" in text
    assert " (default: 0.55)" in text
    assert not re.search(r"\(type|Literal|Union|null\)|\[\]\)|\+ [A-Z]", text)
    with pytest.raises(SystemExit):
        parse(TrainDetection, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "or none; see docs/logging.md. (default: tensorboard,csv)" in text
    assert "--postprocess CONFIG all of these fields, as {name: value}" in text


def test_a_resumed_run_has_its_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of its config.yaml, wherever it lies now, unless a recipe or data are given."""
    run = TrainDetection(output="elsewhere")
    run.train.epochs, run.model.backbone, run.data.path = 7, "resnet10_24", "my_set"
    (tmp_path / "config.yaml").write_text(to_yaml(run))
    monkeypatch.chdir(tmp_path)
    for words in ([f"--resume={tmp_path}/last.pt"], ["--resume", "last.pt"], ["--resume", "--output", str(tmp_path)]):
        found = parse(TrainDetection, [*words, "--epochs", "9"])
        assert (found.train.epochs, found.model.backbone, found.data.path) == (9, "resnet10_24", "my_set")
        assert Path(found.output).resolve() == tmp_path
        assert parse(TrainDetection, [*words, "--data", "other"]).model.backbone != "resnet10_24"
    assert parse(TrainDetection, ["--resume", "last.pt", "--output", "new"]).output == "new"
    assert parse(TrainDetection, ["--resume", "--config", "bccd"]).data.path is None
    assert parse(TrainDetection, ["--resume", "--output", "absent"]).data.path is None


@pytest.mark.parametrize(
    "arguments", [["--train.epoch", "3"], ["--train.epochs", "many"], ["--nonsense"], ["--config", "absent.yaml"]]
)
def test_bad_usage_is_one_line_and_code_2(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        run(lambda: parse(Config, arguments))
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert not printed.out


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("rate", "train.rate: Expected a number. Got value: x"),
        ("quick", "train.quick: Expected true or false. Got value: x"),
        ("limit", "train.limit: Expected one of whole number, null. Got value: x"),
    ],
)
def test_a_wrong_type_is_said_in_plain_words(key: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)} "):
        parse(Config, [f"--train.{key}", "x"])


@pytest.mark.parametrize("recipe", ["train: {epoch: 7}", "trian: {epochs: 7}", "train: {max_epochs: 7}"])
def test_misspelt_key_is_named_with_the_one_that_is_meant(tmp_path: Path, recipe: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe)
    with pytest.raises(UserError, match=r"(epoch'|epochs'|trian).*did you mean train\.epochs\?"):
        parse(Config, ["--config", str(file)])
    with pytest.raises(UserError, match=r"did you mean --train\.epochs\?"):
        parse(Config, ["--train.epoch=7"])
    with pytest.raises(UserError, match=r"did you mean --config\?"):
        parse(Config, ["--confg", str(file), "--confg", str(file)])
    with pytest.raises(UserError, match=r"--bathc_size=2; did you mean --train\.epochs, --train\.batch_size\?"):
        parse(TrainDetection, ["--train.epcohs", "7", "--bathc_size=2"])


def test_a_recipe_is_refused_by_commands_that_do_not_train(tmp_path: Path) -> None:
    for words in (["--config", "bccd"], [f"--config={RECIPES / 'det/bccd.yaml'}"]):
        with pytest.raises(UserError, match=r"bccd\.yaml: a recipe of trainings, which this command does not take: "):
            parse(EvaluateDetection, words)
    with pytest.raises(UserError, match=r"bccd\.yaml: Group 'data' does not accept"):
        parse(TrainClassification, ["--config", "bccd"])
    with pytest.raises(UserError, match=r"^Group 'train' does not accept option 'foo'"):  # not of the file
        parse(TrainDetection, ["--config", "bccd", "--train", "{foo: 1}"])
    file = tmp_path / "own.yaml"
    file.write_text("3: 4\ntrain: {foo: {a: 1}}\n")
    with pytest.raises(UserError, match=r"own\.yaml: "):
        parse(TrainDetection, ["--config", str(file), "--config", "bccd"])


def test_empty_section_is_named(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("output: here\ntrain:\n")
    with pytest.raises(UserError, match="train is empty"):
        parse(Config, ["--config", str(file)])


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("seed: null", "seed is null"),
        ("train: {epochs: null}", r"train\.epochs is null: give it a value"),
        ("train: {steps: null}", r"train\.steps is null"),
        ('output: "a\\0b"', r"recipe\.yaml: .*line 1: a null character"),
        ('train: "a\\0b"', r"recipe\.yaml: .*line 1: a null character"),
        ("train: " + "x/" * 5000, r"recipe\.yaml: .*train.* … .*x/x/x"),
        ("train: 5", "train is 5: it is a section"),
        ("train: [1]", r"train is \[1\]: it is a section"),
        ("a: &a [*a]", r"recipe\.yaml: .*line 1: a is an anchor or alias: write out"),
        ("seed: 1\ntrain:\n  epochs: *n", "line 3: n is an anchor or alias"),
        ("output: " + "x" * 2**16, r"recipe\.yaml: .*longer than 64 KiB"),
        ("train: {steps: " + "[" * 1000, "nested too deeply"),
        ("output: here\ntrain:\n  rate: 1" + "0" * 400, r"recipe\.yaml: .*line 3: a number of 401 digits"),
        (
            "train: {steps: [" + "0, " * 2000 + "]}",
            r"recipe\.yaml: .*line 1: a list of more than 500 values is too long",
        ),
    ],
)
def test_a_recipe_of_another_form_is_refused(tmp_path: Path, recipe: str, message: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe)
    with pytest.raises(UserError, match=message) as caught:
        parse(Config, ["--config", str(file)])
    assert "\n" not in str(caught.value)


def test_null_is_taken_where_it_means_something(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("seed: 7\noutput: null\ntrain:\n  epochs: 7\n  limit: null\n  steps: [7, 8]\n")
    assert parse(Config, ["--config", str(file)]) == Config(Section(7, [7, 8], None), str(Path("runs/recipe")), 7)


def test_numbers_without_end_and_recipes_in_place_of_a_file_on_the_command_line() -> None:
    with pytest.raises(UserError, match=r"--train\.epochs=1000.*…: a number of so many digits is too large"):
        parse(Config, ["--train.epochs=1" + "0" * 400])
    assert parse(Config, ["--config", "{seed: 3}"]) == parse(Config, ["--seed=3"])


@pytest.mark.parametrize("form", ["--config {}", "--config={}"])
def test_recipe_that_is_no_text_is_named(tmp_path: Path, form: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(b"train:\n  epochs: \x9a\n")
    with pytest.raises(UserError, match=r"recipe\.yaml: not a YAML file"):
        parse(Config, form.format(file).split())


def test_torchvision_of_another_torch_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:  # as importing torchvision does then
        raise RuntimeError("operator torchvision::nms does not exist")

    with pytest.raises(SystemExit, match=r"^2$"):
        run(command)
    assert re.fullmatch(r"error: torchvision \S+ was built for another PyTorch .*\n", capsys.readouterr().err)


def test_a_log_of_another_encoding_loses_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "cp1252"))  # of a Windows pipe
    with pytest.raises(SystemExit):
        run(lambda: print("score ≥ 0.3"))
    sys.stdout.flush()
    assert written.getvalue().split(b"\n")[0].rstrip() == b"score \\u2265 0.3"


def test_what_stands_where_an_option_should_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unrecognized arguments: bccd; did you mean --config bccd\?"):
        parse(TrainDetection, ["bccd"])
    with pytest.raises(UserError, match=rf"arguments: {tmp_path}; did you mean --data {tmp_path}\?"):
        parse(TrainDetection, [str(tmp_path), "--seed", "1"])
    weights, results = tmp_path / "best.pt", tmp_path / "results.json"
    for file, config_class, option in (
        (weights, EvaluateDetection, "checkpoint"),
        (weights, TrainDetection, "model.pretrained"),
        (results, EvaluateDetection, "detections"),
        (results, TrainDetection, "data"),
    ):
        file.touch()
        with pytest.raises(UserError, match=rf"did you mean --{option} {file}\?"):
            parse(config_class, [str(file)])
    with pytest.raises(UserError, match=rf"did you mean --others {weights}\?"):
        parse(EvaluateClassification, ["--checkpoint", "a.pt", str(weights)])
    with pytest.raises(UserError, match=r"unrecognized arguments: nothing \(see"):
        parse(TrainDetection, ["nothing"])
    file = tmp_path / "data.yaml"
    file.write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: cat}\n")
    with pytest.raises(UserError, match=r"data\.yaml: this is YOLO's data\.yaml, no recipe: give it as --data$"):
        parse(TrainDetection, ["--config", str(file)])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bcdd", "did you mean bccd"),
        ("zzzzzz", "the recipes are .*bccd, .*wrn50_3"),
        ("configs/bcdd.yaml", "did you mean bccd"),
    ],
)
def test_an_unknown_recipe_names_those_that_exist(name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"--config {name}: no such file, and no recipe of that name: .*{message}"):
        parse(TrainDetection, ["--config", name])


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"--config {tmp_path}: is a folder: name a recipe's file in it"):
        parse(TrainDetection, ["--config", str(tmp_path)])


def test_a_recipe_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("output: Straße_车\n", encoding="utf-8")
    code = "from divdet.engine.cli import *; print(ascii(parse(CommonSettings, ['--config', 'mine.yaml']).output))"
    code = f"from divdet.engine.settings import CommonSettings; {code}"
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = os.environ | locale | {"PYTHONPATH": str(Path(__file__).parents[3])}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.stdout == "'Stra\\xdfe_\\u8f66'\n", run.stderr


def test_a_section_of_a_recipe_is_found_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/own.yaml").write_text("train: section.yaml\n")
    (tmp_path / "mine/section.yaml").write_text("epochs: 9\n")
    monkeypatch.chdir(tmp_path)
    assert parse(TrainDetection, ["--config", "mine/own.yaml"]).train.epochs == 9
    assert Path.cwd() == tmp_path


def test_recipes_are_put_together_on_the_command_line_alone(tmp_path: Path) -> None:
    """Inside a recipe the other's section would be lost where this one has a line of it."""
    base, own = tmp_path / "base.yaml", tmp_path / "own.yaml"
    base.write_text("train: {epochs: 9}\n")
    own.write_text("train: {lr: 0.5}\n")
    read = parse(TrainDetection, ["--config", str(base), "--config", str(own)])
    assert (read.train.epochs, read.train.lr) == (9, 0.5)
    own.write_text("config: base.yaml\ntrain: {lr: 0.5}\n")
    with pytest.raises(UserError, match=rf"cannot name another: give both, --config base\.yaml --config {own}"):
        parse(TrainDetection, ["--config", str(own)])


def test_a_recipe_in_the_home_folder_and_on_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 7\n")
    (tmp_path / "bccd").mkdir()  # of photos, say
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.StringIO("seed: 8\n"))
    names = ("~/mine.yaml", "-", "bccd")
    assert [parse(TrainDetection, [f"--config={name}"]).seed for name in names] == [7, 8, 0]
