"""A run's folder: what continues a run, and what is said where its files cannot be written."""

import errno
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detection.drawing import save_image
from divdet.engine import checkpoint
from divdet.engine.checkpoint import Checkpoint, RunState
from divdet.engine.errors import UserError
from divdet.engine.events import Events
from divdet.engine.files import write_json
from divdet.engine.locking import lock_folder
from divdet.engine.run_folder import RunFolder
from tests.processes import environment


@dataclass
class RunConfig:
    """A run."""

    output: str | None = None
    seed: int = 0
    resume: str | None = None
    limit: int = 0


@dataclass
class ModelConfig(RunConfig):
    """A run with a setting that must stay."""

    model: dict[str, str | None] = field(default_factory=lambda: {"divide_from": None})


@dataclass
class EvaluatedConfig(RunConfig):
    """A run with settings that an evaluation depends on."""

    data: dict = field(default_factory=lambda: {"val_images": "x"})
    postprocess: dict = field(default_factory=lambda: {"nms_iou": 1})


RUN = {
    **{
        "kind": "detection",
        "config": {"output": None, "seed": 0, "limit": 0},
        "meta": {},
        "epoch": 0,
        "history": [],
        "best": 0.5,
    },
    **{"batch": 2, "layout": {"batches": 4, "batch_images": 2, "accumulate": 1}, "totals": {"loss": 1.5}},
    **{"model": {}, "trained": {}, "optimizer": {"w": torch.zeros(1)}, "average_steps": 0},
    "scaler": torch.amp.GradScaler("cpu").state_dict(),
}


def typed(changes: dict[str, Any] | None = None) -> Checkpoint:
    """``RUN`` with changes."""
    state = RUN | (changes or {})
    names = {entry.name for entry in fields(RunState)}
    run = RunState(**{key: value for key, value in state.items() if key in names})
    return Checkpoint(**{key: value for key, value in state.items() if key not in names}, run=run)


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
        {"kept": [-1]},
        {"kept": "1"},
        {"data": [1]},
        {"epoch": 1, "history": [1]},
        {"epoch": 1, "history": [{"epoch": 1, "loss": "1"}]},
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


def test_a_run_with_other_data_or_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save(RUN | {"meta": {"classes": ["a"]}}, path)
    config = RunConfig(output=str(tmp_path), resume="auto")
    assert RunFolder(config, "detection", {"classes": ["a"]}).resumed is not None
    with pytest.raises(UserError, match=r"last\.pt: was trained with other classes; resume with the same"):
        RunFolder(config, "detection", {"classes": ["b"]})
    with pytest.raises(UserError, match=r"last\.pt: comes from an earlier version, which did not save std; start"):
        RunFolder(config, "detection", {"classes": ["a"], "std": [1.0]})
    torch.save(RUN | {"meta": {"classes": ["a"]}, "config": {"seed": 0, "model": {"divide_from": "a b.pt"}}}, path)
    with pytest.raises(
        UserError,
        match=r"with model\.divide_from = a b\.pt, not null; add --model\.divide_from 'a b\.pt', or a new --output",
    ):
        RunFolder(ModelConfig(output=str(tmp_path), resume="auto"), "detection", {"classes": ["a"]})


def test_a_run_that_continues_another_folders_is_continued_itself_when_it_starts_again(tmp_path: Path) -> None:
    torch.save(RUN, tmp_path / "old.pt")
    config = RunConfig(output=str(tmp_path / "new"), resume=str(tmp_path / "old.pt"))
    folder = RunFolder(config, "detection", {})
    folder.begin([])  # a kill from here on, and torchrun starts it with the same words
    folder.write(typed({"batch": 3}))
    assert RunFolder(config, "detection", {}).resumed.run.batch == 3
    torch.save(RUN, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"already holds a run: choose another --output to continue from .*other\.pt"):
        RunFolder(RunConfig(output=config.output, resume=str(tmp_path / "other.pt")), "detection", {})


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen]]:
    """Starts processes that lock ``run`` and say so; they are killed at the end of the test."""
    processes = []

    def start(more: str = "") -> subprocess.Popen:
        code = "import os, sys, time; from pathlib import Path; from divdet.engine.locking import lock_folder\n"
        code += f"lock = lock_folder(Path(sys.argv[1])); {more}\nprint('locked', flush=True); time.sleep(60)"
        words = [sys.executable, "-c", code, str(tmp_path / "run")]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        processes.append(subprocess.Popen(words, env=environment(), start_new_session=True, **streams))
        assert processes[-1].stdout.readline() == "locked\n"
        return processes[-1]

    yield start
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("resume", [None, "auto"])
def test_one_run_at_a_time_has_a_folder(
    tmp_path: Path, started: Callable[[str], subprocess.Popen], resume: str | None
) -> None:
    config = RunConfig(output=str(tmp_path / "run"), resume=resume)
    early = RunFolder(config, "detection", {})  # two that start at once: the folder is not there yet
    (tmp_path / "run").mkdir()
    process = started("os.fork() or time.sleep(60)")  # as data workers are, which may live on for a moment
    if resume:
        torch.save(RUN, tmp_path / "run/last.pt")
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "run").iterdir()}
    for refused in (lambda: RunFolder(config, "detection", {}), lambda: early.begin([])):
        with pytest.raises(UserError, match=r"run: another process is writing to this folder.*--output"):
            refused()
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "run").iterdir()} == before
    process.kill()
    process.wait()
    folder = RunFolder(config, "detection", {})
    folder.begin([])
    folder.close()
    started("")


def test_a_file_system_without_locks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("divdet.engine.locking.fcntl.lockf", fail)
    RunFolder(RunConfig(output=str(tmp_path / "run")), "detection", {}).begin([])
    assert (tmp_path / "run/config.yaml").exists()
    assert lock_folder(tmp_path / "absent") is None


def run_of(tmp_path: Path, epochs: range, keep: int, resume: str | None = None, **data: str) -> RunFolder:
    """A run's folder after some more epochs; each has a save in its middle."""
    folder = RunFolder(RunConfig(output=str(tmp_path / "run"), resume=resume), "detection", {}, data)
    history = list(folder.resumed.history) if folder.resumed else []
    folder.begin(history)
    for epoch in epochs:
        folder.write(typed({"epoch": epoch - 1, "history": history}), keep=keep)
        history = [*history, {"epoch": epoch, "loss": 1.0}]
        folder.write(typed({"epoch": epoch, "batch": 0, "history": history}), keep=keep)
    folder.close()
    return folder


def kept(tmp_path: Path) -> list[str]:
    return sorted(file.name for file in (tmp_path / "run").glob("*.pt"))


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.unlink()  # others may be links to it
    file.write_bytes(content)


def test_a_damaged_checkpoint_does_not_end_a_run_that_keeps_several(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run_of(tmp_path, range(1, 6), keep=3)
    assert kept(tmp_path) == ["epoch_0003.pt", "epoch_0004.pt", "last.pt"]
    assert [checkpoint.read(tmp_path / f"run/{name}")["epoch"] for name in kept(tmp_path)] == [3, 4, 5]
    (tmp_path / "run/epoch_0000.pt").write_text("the user's own")
    damage(tmp_path / "run/last.pt")
    damage(tmp_path / "run/epoch_0004.pt")
    capsys.readouterr()
    folder = run_of(tmp_path, range(4, 6), keep=3, resume="auto")
    assert folder.resumed.epoch == 3
    lines = capsys.readouterr().out.splitlines()
    assert re.search(r"epoch_0004\.pt: damaged", lines[0])
    assert re.search(r"last\.pt: damaged.*; going on from epoch_0003\.pt, the newest intact checkpoint", lines[1])
    assert kept(tmp_path) == ["epoch_0000.pt", "epoch_0003.pt", "epoch_0004.pt", "last.pt"]
    run_of(tmp_path, range(6, 7), keep=1, resume="auto")
    assert kept(tmp_path) == ["epoch_0000.pt", "last.pt"]
    damage(tmp_path / "run/last.pt")
    with pytest.raises(UserError, match=r"last\.pt: damaged"):
        run_of(tmp_path, range(7, 8), keep=1, resume="auto")


def test_a_lost_checkpoint_is_replaced_by_one_that_was_kept(tmp_path: Path) -> None:
    run_of(tmp_path, range(1, 4), keep=2)
    (tmp_path / "run/last.pt").unlink()
    with pytest.raises(UserError, match="already holds a run"):
        RunFolder(RunConfig(output=str(tmp_path / "run")), "detection", {})
    assert RunFolder(RunConfig(output=str(tmp_path / "run"), resume="auto"), "detection", {}).resumed.epoch == 2


def test_other_data_are_said_and_start_the_best_anew(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def resumed(config: RunConfig | None = None, **data: str) -> tuple[bool, list[str]]:
        config = config or RunConfig(output=str(tmp_path / "run"), resume="auto")
        capsys.readouterr()
        found = RunFolder(config, "detection", {}, data).same_evaluation
        return found, [line for line in capsys.readouterr().out.splitlines() if "changed" in line]

    run_of(tmp_path, range(1, 2), keep=1, training="a", validation="b")
    assert resumed(training="a", validation="b") == (True, [])
    same, lines = resumed(training="c", validation="b")
    assert same
    assert re.fullmatch(r"  changed: the training data .*", *lines)
    same, lines = resumed(training="a", validation="c")
    assert not same
    assert re.fullmatch(r"  changed: the validation data .*", *lines)
    old = RUN | {"config": {"seed": 0, "limit": 0, "data": {"val_images": "x"}, "postprocess": {"nms_iou": 1}}}
    torch.save(old, tmp_path / "run/last.pt")  # of a version without fingerprints
    config = EvaluatedConfig(output=str(tmp_path / "run"), resume="auto")
    assert resumed(config, training="c", validation="c") == (True, [])
    config.data["val_images"] = "y"
    assert resumed(config, training="c", validation="c")[0] is False
    config.data["val_images"], config.postprocess["nms_iou"] = "x", 2
    assert resumed(config, training="c", validation="c")[0] is False


def test_where_nothing_is_left_to_train_every_file_stays_as_it_was(tmp_path: Path) -> None:
    run_of(tmp_path, range(1, 3), keep=1)

    def files() -> dict[str, tuple[int, bytes]]:
        return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in (tmp_path / "run").iterdir()}

    def nothing() -> None:
        folder = RunFolder(RunConfig(output=str(tmp_path / "run"), resume="auto", limit=5), "detection", {})
        folder.begin(folder.resumed.history, trains=False)
        folder.close()

    before = files()
    nothing()
    assert files() == before
    (tmp_path / "run/metrics.jsonl").unlink()  # as a kill after the last checkpoint leaves it
    nothing()
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before["metrics.jsonl"][1]
    folder = RunFolder(RunConfig(output=str(tmp_path / "run"), resume="auto", limit=5), "detection", {})
    folder.begin(folder.resumed.history)
    assert files()["config.yaml"] == before["config.yaml"]  # nothing is trained yet
    folder.write(typed())
    assert b"limit: 5" in files()["config.yaml"][1]


def test_epochs_that_a_kill_kept_from_the_events_are_filled_in(tmp_path: Path) -> None:
    lines = [{"epoch": epoch, "loss": 1 / epoch, "AP": 0.5} for epoch in range(1, 7)]

    def write(events: Events, *epochs: int) -> None:
        events.refill()
        for epoch in epochs:
            events.write(epoch, {"loss": 1 / epoch, "AP": 0.5, "seconds": 2.0})

    def shown(name: str) -> list[int]:
        return [event.step for event in EventAccumulator(str(tmp_path)).Reload().Scalars(name)]

    write(Events(tmp_path), 1, 2, 4)  # 3 is missing, and what came of epoch 5 is lost with its checkpoint
    resumed = Events(tmp_path)
    resumed.history = lines[:5]
    write(resumed, 6)
    assert shown("loss") == shown("AP") == [1, 2, 3, 4, 5, 6]
    assert shown("seconds") == [1, 2, 4, 6]
    again = Events(tmp_path)
    again.history = lines[:4]
    write(again, 5)  # instead of the other epochs 5 and 6
    assert shown("loss") == shown("AP") == [1, 2, 3, 4, 5]
    assert shown("seconds") == [1, 2, 4, 5]


def test_a_full_disk_is_called_so(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        folder = RunFolder(RunConfig(output=str(disk / "run")), "detection", {})
        folder.begin([])
        folder.write(typed({"batch": 0}), best=True)
        events = Events(folder.path)
        events.write(1, {"loss": 1.0})
        before = {file.name: file.read_bytes() for file in (disk / "run").glob("*.[pjy]*")}
        with suppress(OSError), open(disk / "rest", "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        large = typed({"model": {"w": torch.zeros(10**5)}})
        writes = (
            ("last.pt", "; the earlier file there is kept", lambda: folder.write(large)),
            ("metrics.jsonl", "; the earlier file there is kept", lambda: folder._write_metrics([{"epoch": 1}])),
            (
                "TensorBoard's events",
                "; .*last.pt holds",
                lambda: [events.write(n, RUN["totals"]) for n in range(99)],
            ),
            ("detections.json", "", lambda: write_json([1], disk / "detections.json")),
            ("a.png", "", lambda: save_image(disk / "a.png", np.zeros((9, 9, 3), np.uint8))),
        )
        for name, left, write in writes:
            message = rf"{re.escape(name)}.* cannot be written \(the disk is full\){left}"
            with pytest.raises(UserError, match=message + "$" * (not left)):
                write()
        assert {file.name: file.read_bytes() for file in (disk / "run").glob("*.[pjy]*")} == before
        assert not list(disk.rglob(".*.tmp"))
    finally:
        folder.close()
        subprocess.run(["umount", disk], check=True)
