"""Configuration, checkpoints, sampling and schedules: what a user sees when something is wrong, and exact values."""

import math
import os
import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from engine import checkpoint
from engine.cli import parse, run, to_yaml
from engine.errors import UserError
from engine.files import write_json
from engine.images import read_bytes
from engine.optimization import TrainSettings, build_optimizer, learning_rate
from engine.run_folder import RunFolder
from engine.sampling import EpochSampler, derived_seed

NAMES = "abcdefghijklmnopqrstuvwxyz"


@dataclass
class Section:
    """A section.

    Attributes:
        epochs: a number.
    """

    epochs: int = 3
    steps: list[int] = field(default_factory=list)
    limit: int | None = 5
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
    with pytest.raises(UserError, match=r"did you mean train\.epochs\?"):
        parse(Config, ["--train.epoch=7"])


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
        ("a: &a [*a]", r"recipe\.yaml: .*an alias \(\*name\) stands inside what it names"),
        ("train: &a {b: *a}", "stands inside what it names"),
        ("train: {steps: " + "[" * 1000, "nested too deeply"),
        ("output: here\ntrain:\n  rate: 1" + "0" * 400, r"recipe\.yaml: .*line 3: a number of 401 digits"),
        ("train: {steps: [" + "0, " * 2000 + "]}", r"recipe\.yaml: .*line 1: a list of 2000 values is too long"),
        ("a: &a []\n" + "".join(f"{b}: &{b} [{'*' + a + ',*' + a}]\n" for a, b in pairwise(NAMES)), "too many"),
    ],
)
def test_a_recipe_of_another_form_is_refused(tmp_path: Path, recipe: str, message: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe)
    with pytest.raises(UserError, match=message) as caught:
        parse(Config, ["--config", str(file)])
    assert "\n" not in str(caught.value)


def test_null_is_taken_where_it_means_something_and_aliases_too(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("seed: &n 7\noutput: null\ntrain:\n  epochs: *n\n  limit: null\n  steps: [*n, 8]\n")
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


class Payload:
    def __reduce__(self) -> tuple:
        return os.system, ("echo owned",)


def test_unusable_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "absent.pt")
    unusable = {"malicious.pt": {"model": Payload(), "kind": "detection"}, "foreign.pt": {"state_dict": {}}}
    for name, value in unusable.items():
        torch.save(value, tmp_path / name)
        with pytest.raises(UserError, match=name):
            checkpoint.load(tmp_path / name)
    good = tmp_path / "good.pt"
    checkpoint.save({"model": {"w": torch.ones(2)}, "kind": "detection"}, good)
    assert checkpoint.load(good, "detection")["model"]["w"].tolist() == [1, 1]
    with pytest.raises(UserError, match="a detection checkpoint where a classification checkpoint is needed"):
        checkpoint.load(good, "classification")
    good.write_bytes(good.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"good\.pt"):
        checkpoint.load(good)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    write_json([1], file)
    with pytest.raises(ValueError, match="JSON"):
        write_json([math.nan], file)
    assert file.read_text() == "[\n  1\n]"
    assert os.listdir(tmp_path) == ["numbers.json"]


def test_every_key_and_shape_must_match() -> None:
    model = torch.nn.Linear(2, 3)
    faults = r"f\.pt.*1 missing \(bias\).*1 unexpected \(b\).*weight is \[3, 3\], not \[3, 2\]"
    with pytest.raises(UserError, match=faults):
        checkpoint.load_weights(model, {"weight": torch.ones(3, 3), "b": torch.ones(3)}, "f.pt")


@pytest.mark.parametrize(
    "weights",
    [torch.ones(3, 2).to_sparse(), torch.ones(3, 2, dtype=torch.int64), torch.ones(3, 2, dtype=torch.complex64)],
    ids=["sparse", "whole numbers", "complex"],
)
def test_weights_are_dense_and_real(weights: torch.Tensor) -> None:
    model = torch.nn.Linear(2, 3, bias=False)
    with pytest.raises(UserError, match=r"f\.pt.*another kind of numbers, or not dense \(weight\)"):
        checkpoint.load_weights(model, {"weight": weights}, "f.pt")
    checkpoint.load_weights(model, {"weight": torch.ones(3, 2, dtype=torch.float16)}, "f.pt")


def test_sampler_fills_batches_and_depends_on_seed_and_epoch_only() -> None:
    sampler = EpochSampler(10, 4, seed=1)
    first = list(sampler)
    assert len(first) == len(sampler) == 8
    assert len({index for _, index in first}) == 8
    sampler.epoch = 1
    assert {epoch for epoch, _ in sampler} == {1}
    assert [index for _, index in sampler] != [index for _, index in first]
    assert list(EpochSampler(10, 4, seed=1)) == first
    assert len(list(EpochSampler(3, 8, seed=0))) == 8
    assert {index for _, index in EpochSampler(3, 8, seed=0)} == {0, 1, 2}


def test_derived_seeds_differ() -> None:
    seeds = {derived_seed(0, name, number) for name in ("a", "b") for number in range(100)}
    assert len(seeds) == 200


def test_learning_rate_of_the_paper() -> None:
    """Sec. IV-A: lr · epoch / slow, then 0.5 · lr · (1 + cos(π (epoch − slow) / (max − slow)))."""
    cifar = TrainSettings(epochs=300, lr=0.1, warmup_epochs=20)
    assert learning_rate(cifar, 0) == 0
    assert learning_rate(cifar, 10) == pytest.approx(0.05)
    assert learning_rate(cifar, 20) == pytest.approx(0.1)
    assert learning_rate(cifar, 160) == pytest.approx(0.05)
    assert learning_rate(cifar, 300) == pytest.approx(0)
    coco = TrainSettings(epochs=65, lr=0.0026, schedule="step", step_epochs=[43, 54])
    assert [learning_rate(coco, epoch) for epoch in (0, 42.9, 43, 54)] == pytest.approx([26e-4, 26e-4, 26e-5, 26e-6])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "step"}, "step_epochs is empty"),
        ({"workers": 10**6}, r"train\.workers is 1000000"),
        ({"step_epochs": [3]}, r"train\.step_epochs is \[3\], which train\.schedule cosine does not use"),
        ({"schedule": "step", "step_epochs": [3, -1]}, r"train\.step_epochs is \[3, -1\]"),
    ],
)
def test_steps_and_schedule_that_contradict_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainSettings(**settings)


def test_biases_and_norms_are_not_decayed() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    decayed, exempt = build_optimizer(model, TrainSettings(), 1e-4).param_groups
    assert [p.ndim for p in decayed["params"]] == [4]
    assert decayed["weight_decay"] == 1e-4
    assert len(exempt["params"]) == 3
    assert exempt["weight_decay"] == 0
    assert len(build_optimizer(model, TrainSettings(decay_all=True), 1e-4).param_groups) == 1


def test_only_what_the_file_is_to_blame_for_is_said_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save({"a": torch.zeros(1)}, path)
    before = path.read_bytes()
    for message, kind in (("PytorchStreamWriter failed writing file", UserError), ("DataLoader worker", RuntimeError)):

        def fail(*_: object, message: str = message) -> None:
            raise RuntimeError(message)

        monkeypatch.setattr(torch, "save", fail)
        with pytest.raises(kind, match=message):
            checkpoint.save({"a": torch.ones(1)}, path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\u2028b", "\x1b[2J", "\ud800", "\u202e"])
def test_a_refusal_is_one_printable_line_whatever_it_quotes(text: str) -> None:
    message = str(UserError(f"{text}.png: é 名前, no image"))
    assert message.isprintable()
    assert message == f"{text.encode('unicode_escape').decode()}.png: é 名前, no image"


def looped() -> list:
    inner: list = []
    inner.append(inner)
    return inner


def shared_out() -> list:
    """Few lists that hold endlessly many."""
    level: list = []
    for _ in range(9):
        level = [level] * 10
    return level


@pytest.mark.parametrize(
    "entry",
    [torch.zeros(2), (1, 2), {1: 2}, {"a": {None: 1}}, looped(), shared_out(), "\ud800", {"\ud800": 1}, {1, 2}, 1j],
    ids=["tensor", "tuple", "number", "null", "loop", "shared", "surrogate", "key", "set", "complex"],
)
def test_settings_of_a_checkpoint_are_plain(tmp_path: Path, entry: object) -> None:
    path = tmp_path / "odd.pt"
    torch.save({"model": {}, "kind": "detection", "meta": {"classes": ["a", 1, 2.5, None, True]}}, path)
    assert checkpoint.load(path)["meta"] == {"classes": ["a", 1, 2.5, None, True]}
    torch.save({"model": {}, "kind": "detection", "config": {"model": entry}}, path)
    with pytest.raises(UserError, match=r"odd\.pt: .*holds other|odd\.pt: refused"):
        checkpoint.load(path)


@dataclass
class RunConfig(Config):
    """A run."""

    resume: str | None = None


RUN = {
    **{"kind": "detection", "config": {"output": None, "seed": 0}, "meta": {}, "epoch": 0, "history": [], "best": 0.5},
    **{"batch": 2, "layout": {"batches": 4, "batch_images": 2, "accumulate": 1}, "totals": {"loss": 1.5}},
    **{"model": {}, "trained": {}, "optimizer": {"w": torch.zeros(1)}, "average_steps": 0},
    "scaler": torch.amp.GradScaler("cpu").state_dict(),
}


@pytest.mark.parametrize(
    "entry",
    [
        {"optimizer": {1: torch.zeros(1)}},
        {"trained": {None: torch.zeros(1)}},
        {"average_steps": 10**400},
        {"batch": -1},
        {"scaler": {"scale": 1.0}},
        {"scaler": RUN["scaler"] | {"scale": "1"}},
        {"scaler": RUN["scaler"] | {"scale": math.nan}},
        {"scaler": RUN["scaler"] | {"_growth_tracker": 2**63}},
        {"best": math.nan},
        {"totals": {"loss": "1"}},
    ],
    ids=str,
)
def test_a_damaged_run_is_refused(tmp_path: Path, entry: dict) -> None:
    path = tmp_path / "last.pt"
    config = RunConfig(output=str(tmp_path / "new"), resume=str(path))
    torch.save(RUN, path)
    assert RunFolder(config, "detection", {}).resumed is not None
    torch.save(RUN | entry, path)
    with pytest.raises(UserError, match=r"last\.pt: what it says of its run is damaged"):
        RunFolder(config, "detection", {})


def test_a_run_that_continues_another_folders_is_continued_itself_when_it_starts_again(tmp_path: Path) -> None:
    torch.save(RUN, tmp_path / "old.pt")
    config = RunConfig(output=str(tmp_path / "new"), resume=str(tmp_path / "old.pt"))
    folder = RunFolder(config, "detection", {})
    folder.begin([])  # a kill from here on, and torchrun starts it with the same words
    folder.write(RUN | {"batch": 3}, None, best=False)
    assert RunFolder(config, "detection", {}).resumed["batch"] == 3
    torch.save(RUN, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"already holds a run: choose another --output to continue from .*other\.pt"):
        RunFolder(RunConfig(output=config.output, resume=str(tmp_path / "other.pt")), "detection", {})


def test_events_that_cannot_be_written_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    folder = RunFolder(RunConfig(output=str(tmp_path / "new")), "detection", {})
    folder.begin([])
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.flush", full)
    with pytest.raises(UserError, match=r"events cannot be written \(No space left on device\); last\.pt holds"):
        folder.write_events(1, {"loss": 1.0})


def test_a_file_system_that_became_read_only_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("os.replace", read_only)
    monkeypatch.setattr("pathlib.Path.unlink", read_only)
    with pytest.raises(UserError, match=r"last\.pt: cannot be written \(Read-only file system\)"):
        checkpoint.save({}, tmp_path / "last.pt")


@pytest.mark.parametrize("name", ["pipe", "zeros"])
def test_a_file_without_an_end_is_not_read(tmp_path: Path, name: str) -> None:
    pipe = tmp_path / name
    if name == "pipe":
        os.mkfifo(pipe)
    else:
        pipe.symlink_to("/dev/zero")
    for read in (checkpoint.read, read_bytes, lambda path: parse(Config, ["--config", str(path)])):
        with pytest.raises(
            UserError,
            match=f"(?s)(?=.*{name}).*not a file",
        ):
            read(pipe)


def test_an_old_format_that_names_no_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"model": {"w": torch.ones(2)}}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    key = re.findall(rb"\d{8,}", content)[-1]
    at = content.rindex(key)
    path.write_bytes(content[:at] + bytes(reversed(key)) + content[at + len(key) :])
    with pytest.raises(UserError, match=r"old\.pt: not a readable checkpoint"):
        checkpoint.load(path)
