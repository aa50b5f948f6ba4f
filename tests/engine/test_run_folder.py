"""A run's folder: what continues a run, and what is said where its files cannot be written."""

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from engine.errors import UserError
from engine.run_folder import RunFolder


@dataclass
class RunConfig:
    """A run."""

    output: str | None = None
    seed: int = 0
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
    with pytest.raises(UserError, match=r"events cannot be written \(the disk is full\); last\.pt holds"):
        folder.write_events(1, {"loss": 1.0})
