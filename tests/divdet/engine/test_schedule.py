"""Epochs raised to a number of steps, the time that is left, and early stopping, on the task of one weight."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classification.settings import ClassificationTrainSettings, TrainClassification
from detection.settings import DetectionTrainSettings, TrainDetection
from divdet.engine import schedule
from divdet.engine.cli import parse
from divdet.engine.optimization import learning_rate
from divdet.engine.schedule import Clock, in_words, with_min_steps
from tests.divdet.engine import test_loop


def test_epochs_are_raised_to_the_steps_and_the_schedule_with_them(capsys: pytest.CaptureFixture) -> None:
    """15 images in batches of 4: 3 steps an epoch, so 850 steps take 284 epochs."""
    recipe = DetectionTrainSettings(
        epochs=17, min_steps=850, batch_size=4, warmup_epochs=2, cot_warmup_epochs=1, evaluate_every=10
    )
    raised = with_min_steps(recipe, 15)
    scale = 284 / 17
    assert (raised.epochs, raised.evaluate_every) == (284, round(10 * scale))
    assert (raised.warmup_epochs, raised.cot_warmup_epochs) == pytest.approx((2 * scale, scale))
    for part in (0, 0.05, 0.1, 0.5, 0.99):
        assert learning_rate(raised, part * 284) == pytest.approx(learning_rate(recipe, part * 17))
    assert "284 epochs instead of 17, since an epoch has 3 steps" in capsys.readouterr().out
    assert with_min_steps(raised, 15) is raised  # as a resumed run's config.yaml says it
    assert with_min_steps(recipe, 205) is recipe  # 17 epochs of 51 steps are 867
    assert with_min_steps(recipe, 15, replicas=2).epochs == 850
    steps = DetectionTrainSettings(epochs=10, min_steps=60, batch_size=4, schedule="step", milestones=[6, 9])
    assert with_min_steps(steps, 12).milestones == [12, 18]


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        ([], 850),
        (["--train.epochs", "3"], 0),
        (["--train.epochs=3"], 0),
        (["--train.epochs", "3", "--train.min_steps", "90"], 90),
    ],
)
def test_epochs_on_the_command_line_are_meant_as_they_stand(words: list[str], steps: int) -> None:
    assert parse(TrainDetection, ["--config", "bccd", *words]).train.min_steps == steps


def test_the_rest_of_a_run_is_estimated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 2 s after a first one of 30 s, which does not count; nor does the time between epochs."""
    now = [0.0]
    monkeypatch.setattr(schedule.time, "perf_counter", lambda: now[0])
    clock, lines = Clock(), []
    for step in range(10):
        if step % 3 == 0:
            now[0] += 1000  # an evaluation
            clock.start()
        now[0] += 2 if step else 30
        clock.step()
        lines.append(clock.first_estimate(100 - step))
    assert clock.left(100) == ", 3 min 20 s left"
    assert [bool(line) for line in lines] == [False] * 5 + [True] + [False] * 4
    assert lines[5].startswith("2 s a step: the 95 steps left take about 3 min 10 s")
    assert [in_words(seconds) for seconds in (59.4, 60, 3599, 7500)] == [
        "59 s",
        "1 min 0 s",
        "59 min 59 s",
        "2 h 5 min",
    ]


class Scored(test_loop.OneWeight):
    """Evaluations give the scores in turn."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__(lambda epoch, numbers: 1.0)
        self.scores = scores

    def evaluate(self) -> dict[str, Any]:
        return {"score": self.scores.pop(0)}


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, scores: list[float], **changes: Any) -> list[dict[str, Any]]:
    monkeypatch.setattr(test_loop, "OneWeight", lambda meet: Scored(scores))
    return test_loop.train(folder, epochs=9, **changes)[1]


def test_a_run_stops_early_and_stays_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    scores = [0.1, 0.3, 0.2, 0.3, 0.5, 0.6]
    history = run(tmp_path, monkeypatch, list(scores), patience=2)
    printed = capsys.readouterr().out
    assert "9 epochs of 6 steps: 54 steps" in printed
    assert "stopped after epoch 4 of 9: no better score than 0.3 in 2 evaluations" in printed
    assert [line["score"] for line in history] == scores[:4]
    assert torch.load(tmp_path / "best.pt", weights_only=True)["epoch"] == 2
    before = (tmp_path / "last.pt").read_bytes()
    assert run(tmp_path, monkeypatch, list(scores), patience=2, resume="auto") == history
    assert "the run already has 4 epochs of 9: no better score than 0.3" in capsys.readouterr().out
    assert (tmp_path / "last.pt").read_bytes() == before
    longer = run(tmp_path, monkeypatch, scores[4:] + [0.0] * 3, patience=3, resume="auto")
    assert [line["score"] for line in longer] == [*scores, 0.0, 0.0, 0.0]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 9


def test_waiting_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run begins with one evaluation waited, as the first left it."""
    with pytest.raises(IndexError):
        run(tmp_path, monkeypatch, [0.3, 0.2], patience=2)  # the third evaluation fails
    assert len(run(tmp_path, monkeypatch, [0.1, 0.9], patience=2, resume="auto")) == 3


def test_epochs_without_evaluation_do_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = run(tmp_path, monkeypatch, [0.3, 0.2, 0.1], patience=2, evaluate_every=2)
    assert len(history) == 6
    assert [json.loads(line).get("score") for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        *(None, 0.3, None, 0.2, None, 0.1)
    ]


def test_a_raised_run_resumes_to_the_same_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 numbers in batches of 4: 3 steps an epoch."""

    def settings(**changes: Any) -> dict[str, Any]:
        found = with_min_steps(schedule.TrainSettings(epochs=2, batch_size=4, min_steps=12, warmup_epochs=0.5), 12)
        return {"epochs": found.epochs, "warmup_epochs": found.warmup_epochs, "batch_size": 4} | changes

    whole, history = test_loop.train(tmp_path / "whole", **settings())
    assert len(history) == 4

    def stop(epoch: float, numbers: Tensor) -> float:
        if epoch > 2.5:
            raise InterruptedError
        return 1.0

    with pytest.raises(InterruptedError):
        test_loop.train(tmp_path / "parts", stop, **settings())
    parts, again = test_loop.train(tmp_path / "parts", **settings(resume="auto"))
    assert again == history
    assert torch.equal(parts.model.weight, whole.model.weight)


def test_both_tasks_have_the_setting() -> None:
    assert TrainClassification(train=ClassificationTrainSettings(min_steps=5)).train.min_steps == 5
