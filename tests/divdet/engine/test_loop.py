"""The training loop on a task of one weight: the rate and λ of every step, and reports that are read a step late."""

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from classification.losses import cot_weight_at
from divdet.engine import loop, loss_report, memory
from divdet.engine.callbacks import Callback, Run
from divdet.engine.distributed import World
from divdet.engine.errors import UserError
from divdet.engine.loop import fit, training_loader
from divdet.engine.loss_report import LossReports
from divdet.engine.run_folder import RunFolder
from divdet.engine.settings import TrainSettings
from divdet.engine.state import not_finite
from divdet.engine.stopping import Stopped


@dataclass
class Recipe:
    train: TrainSettings
    output: str
    resume: str | None = None
    seed: int = 0


class Numbers:
    """12 samples, which are their numbers."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        return torch.tensor([float(key[1] % 12)])


class OneWeight:
    """``(weight - number)²``; ``meet(epoch, numbers)`` sees every batch and may change its loss."""

    best_metric = "score"
    weight_decay = 0.0
    sliced = False
    lr_factors: dict[str, float] = {}  # noqa: RUF012

    def __init__(self, meet: Callable[[float, Tensor], float]) -> None:
        self.model = self.network = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.model.weight)
        self.meta: dict[str, Any] = {}
        self.meet = meet

    def losses(self, batch: Tensor, epoch: float) -> dict[str, Tensor]:
        factor = self.meet(epoch, batch)
        return {"loss": ((self.network(torch.ones(1, 1)) - batch) ** 2).mean() * factor / 100, "half": batch.mean() / 2}

    def evaluate(self) -> dict[str, Any]:
        return {"score": -self.model.weight.item()}

    def name(self, index: int) -> str:
        return f"number {index}"


def train(
    folder: Path, meet: Callable[[float, Tensor], float] = lambda epoch, numbers: 1.0, **changes: Any
) -> tuple[OneWeight, list[dict[str, Any]]]:
    """The task after a run, and its metrics by epoch."""
    resume, callbacks = changes.pop("resume", None), changes.pop("callbacks", ())
    options = {"epochs": 3, "batch_size": 2, "lr": 0.5, "workers": 0, "precision": "float32", "ema_decay": 0.9}
    options |= changes
    recipe = Recipe(TrainSettings(**options), str(folder), resume)
    task, device = OneWeight(meet), torch.device("cpu")
    run = RunFolder(recipe, "toy", {})
    loader = training_loader(Numbers(), recipe.train, 0, device, World())
    fit(task, loader, run, device, World(), callbacks)
    return task, torch.load(folder / "last.pt", weights_only=True)["history"]


def test_no_step_of_a_warm_up_has_rate_or_weight_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """6 batches of 2 an epoch, 2 a step: 3 steps an epoch, of which 5 are warm-up (5 / 3 epochs)."""
    rates, weights = [], []

    def step(optimizer: torch.optim.SGD, *_: Any, original: Any = torch.optim.SGD.step) -> None:
        rates.append({group["lr"] for group in optimizer.param_groups})
        original(optimizer)

    monkeypatch.setattr(torch.optim.SGD, "step", step)

    def meet(epoch: float, numbers: Tensor) -> float:
        weights.append(cot_weight_at(epoch, 1.0, 4 / 3))
        return 1.0

    _, history = train(tmp_path / "run", meet, accumulate=2, warmup_epochs=5 / 3, lr=0.5)
    # Then 0.25 · (1 + cos(π · k / 4)), k = 0 … 3
    table = [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.4267767, 0.25, 0.0732233]
    assert [rate for (rate,) in rates] == pytest.approx(table, abs=1e-6)
    assert max(rate for (rate,) in rates) == 0.5
    assert [line["lr"] for line in history] == [rate for (rate,) in rates[2::3]]
    assert weights == pytest.approx([0.25, 0.25, 0.5, 0.5, 0.75, 0.75] + [1.0] * 12)


def test_a_step_of_more_images_than_an_epoch_is_told(capsys: pytest.CaptureFixture) -> None:
    """12 numbers, or 24 where each occurs twice."""
    settings = TrainSettings(batch_size=16, workers=0)
    for repeats, told in ((None, "a step takes 16 images, and an epoch has 12"), ([2.0] * 12, "")):
        training_loader(Numbers(), settings, 0, torch.device("cpu"), World(), repeats)
        assert (told in capsys.readouterr().out) if told else not capsys.readouterr().out


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are read a step late, as on a GPU."""
    monkeypatch.setitem(loss_report._LATE, "cpu", 1)


def test_a_late_report_changes_neither_weights_nor_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, history = train(tmp_path / "at once", save_every=2)
    monkeypatch.setitem(loss_report._LATE, "cpu", 1)
    second, late = train(tmp_path / "late", save_every=2)
    assert late == history
    assert torch.equal(first.model.weight, second.model.weight)
    files = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("at once", "late")]
    for key in ("totals", "batch", "epoch", "best"):
        assert files[0][key] == files[1][key]


@pytest.mark.parametrize("at", [4, 6])  # a step inside the epoch, and its last
def test_a_late_loss_that_is_not_finite_is_not_saved_and_names_its_images(tmp_path: Path, late: None, at: int) -> None:
    met: list[list[int]] = []

    def meet(epoch: float, numbers: Tensor) -> float:
        met.append(numbers.flatten().int().tolist())
        return float("nan") if len(met) == at else 1.0

    with pytest.raises(UserError, match=rf"the loss is not finite at epoch 1, batch {at}:") as caught:
        train(tmp_path, meet, save_every=3)
    names = sorted(f"number {number}" for number in met[at - 1])
    assert str(caught.value).endswith(f"the batch's images: {', '.join(names)}")
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    assert (saved["epoch"], saved["batch"]) == (0, 3)
    assert all(value.isfinite().all() for value in saved["model"].values())


@pytest.mark.parametrize("at", [2, 5, 6])
def test_a_late_signal_stops_a_run_which_then_goes_on(tmp_path: Path, late: None, at: int) -> None:
    whole, history = train(tmp_path / "whole")
    met: list[float] = []

    def meet(epoch: float, numbers: Tensor) -> float:
        met.append(epoch)
        if len(met) == at:
            signal.raise_signal(signal.SIGTERM)
        return 1.0

    with pytest.raises(Stopped):
        train(tmp_path / "run", meet)
    assert len(met) == min(at + 1, 6)
    saved = torch.load(tmp_path / "run/last.pt", weights_only=True)
    assert (saved["epoch"], saved["batch"]) == (0, len(met))
    again, history_again = train(tmp_path / "run", resume="auto")
    assert history_again == history
    assert torch.equal(again.model.weight, whole.model.weight)


def test_a_run_in_a_thread_of_another_program(tmp_path: Path) -> None:
    """Only the main thread may handle signals: as a server or a search for settings trains."""
    with ThreadPoolExecutor(1) as pool:
        _, history = pool.submit(train, tmp_path / "thread", workers=1).result()
        starved = pool.submit(train, tmp_path / "memory", lambda epoch, numbers: torch.empty(2**50)[0])
        with pytest.raises(UserError, match="out of memory"):
            starved.result()
    assert history == train(tmp_path / "alone")[1]


def test_a_first_step_that_the_memory_cannot_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system would kill the process without a word."""

    def meet(epoch: float, numbers: Tensor) -> Tensor:
        return torch.ones(2**18, requires_grad=True).exp().sigmoid().mean()  # saves 2 MiB

    monkeypatch.setattr(memory, "own_memory", lambda: 0)
    monkeypatch.setattr(memory, "available_memory", lambda: 2_000_000)
    with pytest.raises(UserError, match=r"out of memory: lower train\.batch_size"):
        train(tmp_path / "small", meet)
    monkeypatch.setattr(memory, "available_memory", lambda: 4_000_000)
    train(tmp_path / "large", meet)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # a process of torchrun's has half of it
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(UserError, match="out of memory"):
        train(tmp_path / "shared", meet)


def test_processes_wait_for_long_callbacks_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With patience: the collectives of a step give up after five minutes."""
    seen = []

    class Long(Callback):
        def on_epoch_end(self, run: Run, epoch: int, metrics: dict[str, float]) -> None:
            seen.append(epoch)

    monkeypatch.setattr(World, "await_all", lambda world: seen.append("all"))
    train(tmp_path, callbacks=[Long()])
    assert seen == [1, "all", 2, "all", 3, "all"]


def test_a_report_does_not_wait_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors without values, of a GPU that need not be there."""
    events: list[str] = []

    class Event:
        def record(self, stream: str) -> None:
            events.append(stream)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device.type}")
    reports = LossReports(World(), torch.device("cuda"))
    with FakeTensorMode():
        losses = {name: torch.empty((), device="cuda") for name in ("loss", "half")}
        reports.add([losses, losses], 2, signal=0)
    assert reports.due() == []
    assert events == ["the stream of cuda"]
    (report,) = reports.due(all_of_them=True)
    assert (report.values.device.type, report.values.shape) == ("cpu", (5,))


def test_all_tensors_are_checked_at_once() -> None:
    tensors = {
        "a": torch.ones(3),
        "b": torch.tensor([1.0, torch.inf]),
        "c": torch.tensor(7),
        "d": torch.tensor(torch.nan),
    }
    assert not_finite(tensors) == ["b", "d"]
    assert not_finite({}) == []


def test_cudnn_chooses_its_algorithms_in_training_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = loop.tuned_convolutions
    monkeypatch.setattr(loop, "tuned_convolutions", lambda device: original(torch.device("cuda")))  # as if there were
    train(tmp_path, lambda epoch, numbers: float(not seen.append(torch.backends.cudnn.benchmark)), epochs=1)
    assert set(seen) == {True}
    assert not torch.backends.cudnn.benchmark
    with original(torch.device("cpu")):
        assert not torch.backends.cudnn.benchmark
