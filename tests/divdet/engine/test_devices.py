"""Which device a program uses."""

from collections.abc import Callable

import pytest
import torch

from classification.settings import EvaluateClassification
from divdet.commands import detect_photos, eval_cls, eval_det, finding, quickstart
from divdet.commands.benchmark import print_benchmark
from divdet.commands.network_settings import Benchmark
from divdet.commands.settings import Detect, EvaluateDetection
from divdet.engine.devices import use_device
from divdet.engine.errors import UserError
from divdet.engine.launch import processes


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """The devices that were made the current one, on a machine that seems to have two."""
    found: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    return found


def test_a_numbered_device_becomes_the_current_one(current: list[torch.device]) -> None:
    assert use_device("cuda:1") == torch.device("cuda:1")
    assert current == [torch.device("cuda:1")]
    for name in ("cpu", "cuda", "auto"):
        use_device(name)
    assert len(current) == 1
    with pytest.raises(UserError, match="--device cuda:2: this machine has 2 CUDA devices"):
        use_device("cuda:2")
    with processes("cuda:1", 1, False) as (_, device):
        assert current[1:] == [device] == [torch.device("cuda:1")]


class ReachedError(Exception):
    """The command has come to its work."""


def reached(*_: object) -> None:
    raise ReachedError


@pytest.mark.parametrize(
    ("module", "name", "command"),
    [
        (eval_det, "Detector.load", lambda: eval_det.evaluate(EvaluateDetection("a.pt", device="cuda:1"))),
        (finding, "Detector.load", lambda: detect_photos.detect_photos(Detect("a.pt", [__file__], device="cuda:1"))),
        (quickstart, "generate", lambda: quickstart.quickstart(quickstart.Quickstart(device="cuda:1", output="none"))),
    ],
)
def test_every_command_sets_its_device(
    module: object, name: str, command: Callable[[], object], current: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{module.__name__}.{name}", reached)
    monkeypatch.setattr(detect_photos, "find_images", lambda *_: [__file__])
    with pytest.raises(ReachedError):
        command()
    assert current == [torch.device("cuda:1")]


def test_benchmarks_and_evaluation_of_classifiers_set_their_device(
    current: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eval_cls, "load_ensemble", reached)
    monkeypatch.setattr("divdet.commands.benchmark._batch_sizes", reached)
    for command in (
        lambda: eval_cls.evaluate(EvaluateClassification("a.pt", device="cuda:1")),
        lambda: print_benchmark(Benchmark(device="cuda:1")),
    ):
        with pytest.raises(ReachedError):
            command()
    assert current == [torch.device("cuda:1")] * 2
