"""Loggers read back: the numbers of metrics.jsonl, once each, after a resumed run, too; and callbacks."""

import csv
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

import divdet
from divdet.commands import COMMANDS
from divdet.engine import loggers, loss_report
from divdet.engine.callbacks import Callback, Run, Step
from divdet.engine.errors import UserError
from divdet.engine.events import Events
from divdet.engine.words import counted
from tests.divdet.engine.test_loop import OneWeight, train

Points = dict[str, list[tuple[int, float]]]  # (step or epoch, value), by name


class Recorder(Callback):
    """Keeps what it is called with, and may do something at a step or an epoch."""

    def __init__(self, at_step: int = 0, at_epoch: int = 0, act: Callable[[Run], object] = lambda run: None) -> None:
        self.calls: list[str] = []
        self.steps: list[Step] = []
        self.weights: list[float] = []
        self.at_step, self.at_epoch, self.act = at_step, at_epoch, act

    def on_train_begin(self, run: Run) -> None:
        self.calls.append(f"begin after {len(run.history)}")

    def on_step_end(self, run: Run, step: Step) -> None:
        self.steps.append(step)
        self.weights.append(run.model.weight.item())
        if step.number == self.at_step:
            self.act(run)

    def on_epoch_end(self, run: Run, epoch: int, metrics: dict[str, float]) -> None:
        assert run.history[-1] == metrics
        assert (run.folder / "last.pt").exists()
        self.calls.append(f"epoch {epoch}")
        if epoch == self.at_epoch:
            self.act(run)

    def on_train_end(self, run: Run, status: str) -> None:
        self.calls.append(status)


class UserFault(ConnectionResetError):
    """Of a kind that the loop would take for a dead data worker."""


def fail(run: Run) -> None:
    raise UserFault("in the user's code")


def break_run(folder: Path, **changes: Any) -> None:
    """A run of 3 epochs of 6 steps, which breaks in step 9, after a checkpoint in step 8."""
    with pytest.raises(UserFault):
        train(folder, save_every=2, callbacks=[Recorder(9, act=fail)], **changes)


def broken_and_resumed(folder: Path, **changes: Any) -> None:
    break_run(folder, **changes)
    train(folder, resume="auto", **changes)


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def expected(folder: Path, steps: list[Step], every: int) -> tuple[Points, Points]:
    """The points of epochs and steps that a logger must hold."""
    epochs: Points = {}
    for line in lines(folder):
        for name in line.keys() - {"epoch"}:
            epochs.setdefault(name, []).append((line["epoch"], line[name]))
    named = [(step.number, {"loss": step.losses["loss"], "half": step.losses["half"], "lr": step.lr}) for step in steps]
    points = {f"step/{name}": [(n, v[name]) for n, v in named if n % every == 0] for name in ("loss", "half", "lr")}
    return epochs, points


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    """All steps of an undisturbed run."""
    recorder = Recorder()
    train(tmp_path_factory.mktemp("whole"), callbacks=[recorder], loggers=["none"])
    return recorder.steps


def test_steps_make_the_epoch(tmp_path: Path, steps: list[Step]) -> None:
    assert [(step.number, step.epoch) for step in steps] == [(n, (n - 1) // 6 + 1) for n in range(1, 19)]
    train(tmp_path, loggers=["none"])
    assert {file.name for file in tmp_path.iterdir()} == {".lock", "config.yaml", "metrics.jsonl", "last.pt", "best.pt"}
    for line in lines(tmp_path):
        own = [step for step in steps if step.epoch == line["epoch"]]
        assert sum(step.losses["loss"] for step in own) / 6 == pytest.approx(line["train_loss"])
        assert own[-1].lr == line["lr"]


def test_csv_and_tensorboard_hold_metrics_jsonl(tmp_path: Path, steps: list[Step]) -> None:
    """The first epoch has no score: a column comes later."""
    broken_and_resumed(tmp_path, log_every=3, evaluate_every=2)
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]
    assert rows == lines(tmp_path)
    assert "score" not in rows[0]
    epochs, points = expected(tmp_path, steps, 3)
    for folder, wanted in ((tmp_path, epochs), (tmp_path / "steps", points)):
        events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
        shown = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in wanted}
        assert shown.keys() == wanted.keys()
        for name, values in wanted.items():
            assert [step for step, _ in shown[name]] == [step for step, _ in values]
            assert [value for _, value in shown[name]] == pytest.approx([value for _, value in values], rel=1e-6)
    (tmp_path / "metrics.csv").unlink()  # as a kill behind the last checkpoint leaves it
    for file in tmp_path.glob("events.*"):
        file.unlink()
    train(tmp_path, resume="auto", evaluate_every=2)
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 4
    assert len(EventAccumulator(str(tmp_path)).Reload().Scalars("lr")) == 3


def test_tensorboard_shows_a_run_whose_clock_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads files in the order of their names, and forgets the later epochs of earlier files."""
    for epochs, now in (([1, 2], 2_000_000_000), ([3], 1), ([4], 1_000_000_000)):
        monkeypatch.setattr("time.time_ns", lambda now=now: now * 10**9)
        events = Events(tmp_path)
        for epoch in epochs:
            events.write(epoch, {"loss": epoch / 2})
    shown = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in shown] == [(1, 0.5), (2, 1), (3, 1.5), (4, 2)]


def records(file: Path) -> Iterator[Record]:
    """The records of W&B's offline file, which has the layout of LevelDB's log: blocks of 32 KiB."""
    data, at, part = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        part, at = part + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # whole, or a last part
            yield Record.FromString(part)
            part = b""


def points_of(rows: list[dict[str, float]], axis: str) -> Points:
    found: Points = {}
    for row in rows:
        for name in row.keys() - {axis, "seconds"} if axis in row else ():
            found.setdefault(name, []).append((row[axis], row[name]))
    return found


def test_wandb_offline(tmp_path: Path, steps: list[Step], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    break_run(tmp_path, loggers=["wandb"], log_every=3)
    time.sleep(1)  # offline folders are named by the second
    train(tmp_path, resume="auto", loggers=["wandb"], log_every=3)
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    until = time.monotonic() + 30
    while not any(record.HasField("exit") for record in records(files[1])) and time.monotonic() < until:
        time.sleep(0.1)  # W&B's own process writes it
    parts = [list(records(file)) for file in files]
    assert len({record.run.run_id for part in parts for record in part if record.HasField("run")}) == 1
    assert [record.exit.exit_code for part in parts for record in part if record.HasField("exit")] == [1, 0]
    history = [record.history.item for part in parts for record in part if record.HasField("history")]
    rows = [
        {item.nested_key[0] if item.nested_key else item.key: json.loads(item.value_json) for item in row}
        for row in history
    ]
    rows = [{name: value for name, value in row.items() if name[0] != "_"} for row in rows]
    assert (points_of(rows, "epoch"), points_of(rows, "step")) == expected(tmp_path, steps, 3)
    axes = {
        record.metric.name: record.metric.step_metric for part in parts for record in part if record.HasField("metric")
    }
    assert axes["score"] == "epoch"
    assert axes["step/loss"] == "step"
    settings = {update.key: json.loads(update.value_json) for record in parts[0] for update in record.config.update}
    assert settings["train"]["lr"] == 0.5
    assert json.loads((tmp_path / "wandb.json").read_text()).items() >= {"epoch": 3, "step": 18}.items()


def test_mlflow_in_the_runs_folder(tmp_path: Path, steps: list[Step], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    broken_and_resumed(folder, loggers=["mlflow"], log_every=3)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("divdet").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.lr"] == "0.5"
    epochs, points = expected(folder, steps, 3)
    found = {
        name: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics.keys() - {"seconds"}
    }
    assert found == epochs | points


class FakeWandb:
    """Stands for the package; ``log`` fails at the given calls."""

    def __init__(self, *failing: int) -> None:
        self.run, self.failing, self.calls, self.id = None, failing, 0, "mine"
        self.rows: list[dict[str, float]] = []
        self.config = SimpleNamespace(update=lambda *_, **__: None)

    def init(self, **options: Any) -> "FakeWandb":
        self.options = options
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        pass

    def log(self, row: dict[str, float]) -> None:
        self.calls += 1
        if self.calls in self.failing:
            raise OSError("no route to host")
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


def test_a_service_that_fails_is_said_once_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Steps 6, 12 and 18, epochs 1, 2 and 3: the calls 2 and 3 are epoch 1 and step 12."""
    fake = FakeWandb(2, 3)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr("divdet.engine.remote_loggers._PATIENCE", 0)
    train(tmp_path, loggers=["wandb"], log_every=6)
    assert [row["epoch"] for row in fake.rows if "epoch" in row] == [1, 2, 3]
    assert [row["step"] for row in fake.rows if "step" in row] == [6, 18]
    printed = capsys.readouterr().out
    assert printed.count("note: wandb failed, the run goes on without it for now: OSError: no route to host") == 1
    assert "wandb: 2 calls failed; 0 of 3 epochs and 1 steps are missing there" in printed
    assert fake.exit_code == 0


def test_a_run_killed_at_its_end_is_completed_and_then_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(run: Run) -> None:
        raise KeyboardInterrupt

    fakes = [FakeWandb() for _ in range(3)]
    for fake, resume in zip(fakes, (None, "auto", "auto"), strict=True):
        monkeypatch.setitem(sys.modules, "wandb", fake)
        with suppress(KeyboardInterrupt):
            train(tmp_path, loggers=["wandb"], resume=resume, callbacks=[Recorder(at_epoch=3, act=kill)])
    assert [[row["epoch"] for row in fake.rows] for fake in fakes] == [[1, 2, 3], [1, 2, 3], []]
    assert [hasattr(fake, "exit_code") for fake in fakes] == [False, True, False]


@pytest.mark.parametrize(("unsure", "again"), [(1000, [1, 2, 3]), (-1, [2, 3])])
def test_what_wandb_may_have_lost_in_a_kill_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unsure: int, again: list[int]
) -> None:
    def kill(run: Run) -> None:
        raise KeyboardInterrupt  # without on_train_end, as a kill

    monkeypatch.setattr("divdet.engine.wandb_logger._UNSURE", unsure)
    fakes = FakeWandb(), FakeWandb()
    for fake, resume, callback in zip(fakes, (None, "auto"), (Recorder(9, act=kill), Recorder()), strict=True):
        monkeypatch.setitem(sys.modules, "wandb", fake)
        with suppress(KeyboardInterrupt):
            train(tmp_path, loggers=["wandb"], log_every=6, resume=resume, callbacks=[callback])
    rows = [[row["epoch"] for row in fake.rows if "epoch" in row] for fake in fakes]
    assert rows == [[1], again]


def test_a_service_that_cannot_begin_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: Any) -> None:
        raise RuntimeError("No API key\nconfigured")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None, init=init))
    with pytest.raises(UserError, match=r"wandb cannot begin: RuntimeError: No API key configured; WANDB_MODE=off"):
        train(tmp_path, loggers=["wandb"])
    assert not (tmp_path / "last.pt").exists()


@pytest.mark.parametrize(
    ("task", "spec"),
    [("det", None), ("cls", None), ("det", ModuleSpec("mlflow", None))],
    ids=["det", "cls", "a folder of its name"],
)
def test_a_package_that_is_missing_is_named_before_anything_is_read(
    task: str, spec: ModuleSpec | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match="has none beside others"):
        divdet.train(task=task, train={"loggers": ["none", "csv"]})
    with pytest.raises(UserError, match=r"has mlflow, which is not installed: pip install 'divdet\[mlflow\]'"):
        divdet.train(task=task, train={"loggers": ["csv", "mlflow"]})


@pytest.mark.parametrize(("words", "names"), [("csv,wandb", ["csv", "wandb"]), ("none", ["none"])])
def test_loggers_on_the_command_line(words: str, names: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        COMMANDS["train-det"].parse(["--loggers", words, "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["train"]["loggers"] == names
    with pytest.raises(UserError, match=r"train\.loggers.*'tensorboard', 'csv', 'wandb', 'mlflow', 'none'.*tensorbord"):
        COMMANDS["train-cls"].parse(["--train.loggers", "tensorbord"])


@pytest.mark.parametrize("late", [0, 1])
def test_callbacks_see_every_step_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    monkeypatch.setitem(loss_report._LATE, "cpu", late)
    recorder = Recorder()
    seen, history = train(tmp_path / "seen", callbacks=[recorder])
    alone, history_alone = train(tmp_path / "alone", loggers=[])
    assert torch.equal(seen.model.weight, alone.model.weight)
    assert history == history_alone
    assert [step.number for step in recorder.steps] == list(range(1, 19))
    assert recorder.calls == ["begin after 0", "epoch 1", "epoch 2", "epoch 3", "completed"]
    assert recorder.weights[-1] == seen.model.weight.item()
    assert len(set(recorder.weights[:5])) == 5


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize(
    ("at_step", "at_epoch", "ends"), [(8, 0, (1, 3)), (12, 0, (2, 0)), (0, 2, (2, 0)), (2, 0, (0, 3))]
)
def test_a_callback_ends_a_run_which_can_be_resumed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    late: int,
    at_step: int,
    at_epoch: int,
    ends: tuple[int, int],
) -> None:
    monkeypatch.setitem(loss_report._LATE, "cpu", late)
    recorder = Recorder(at_step, at_epoch, lambda run: run.stop("good enough"))
    train(tmp_path / "run", callbacks=[recorder])
    saved = torch.load(tmp_path / "run/last.pt", weights_only=True)
    assert saved["epoch"] == ends[0]
    assert saved["batch"] == ends[1] + 2 * late * (ends[1] > 0)
    assert f"stopped after {counted(ends[0], 'epoch')} " in capsys.readouterr().out
    assert recorder.calls[-1] == "stopped"
    again, history = train(tmp_path / "run", resume="auto")
    whole, history_whole = train(tmp_path / "whole")
    assert torch.equal(again.model.weight, whole.model.weight)
    assert history == history_whole


def test_a_stop_in_the_last_epoch_leaves_nothing_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    recorder = Recorder(at_epoch=3, act=Run.stop)
    train(tmp_path, callbacks=[recorder], loggers=["none"])
    assert recorder.calls[-1] == "completed"
    assert "--resume" not in capsys.readouterr().out


def test_a_faulty_callback_keeps_its_traceback_and_the_checkpoint(tmp_path: Path) -> None:
    recorder = Recorder()
    with pytest.raises(UserFault, match="in the user's code") as caught:
        train(tmp_path, callbacks=[recorder, Recorder(at_epoch=2, act=fail)])
    assert "fail" in [entry.name for entry in caught.traceback]
    assert recorder.calls == ["begin after 0", "epoch 1", "epoch 2", "failed"]
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == 2
    recorder = Recorder()
    train(tmp_path, callbacks=[recorder], resume="auto")
    assert recorder.calls == ["begin after 2", "epoch 3", "completed"]


def test_what_is_no_callback_is_refused() -> None:
    with pytest.raises(UserError, match=r"callbacks has the class Recorder: give objects"):
        divdet.train("bccd", callbacks=[Recorder])
    with pytest.raises(UserError, match=r"callbacks has function: give objects"):
        divdet.train("bccd", callbacks=[lambda: None])
    with pytest.raises(UserError, match=r"callbacks is Recorder: give a list"):
        divdet.train("bccd", callbacks=Recorder())
    misspelt = type("Misspelt", (Callback,), {"on_epoch_ends": None})()
    with pytest.raises(UserError, match=r"Misspelt has on_epoch_ends: did you mean on_epoch_end\?"):
        divdet.train("bccd", callbacks=[misspelt])
    with pytest.raises(UserError, match="--callback="):
        divdet.train("bccd", callback=[Recorder()])
    assert issubclass(divdet.Callback, Callback)


def test_a_run_that_ends_in_its_first_epoch_has_no_metrics(tmp_path: Path) -> None:
    task, history = train(tmp_path, callbacks=[Recorder(1, act=Run.stop)])
    assert isinstance(task, OneWeight)
    assert history == []
