"""Epochs raised to a number of steps, the time that is left, and early stopping, on the task of one weight."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classification import settings as classification
from classification.training import train as train_classifier
from detection.settings import DetectionTrainSettings, ModelSettings, TrainDetection
from detection.training.train import train as train_detector
from divdet.engine import schedule
from divdet.engine.best import Best
from divdet.engine.checkpoint import Checkpoint
from divdet.engine.cli import parse, to_dict
from divdet.engine.errors import UserError
from divdet.engine.optimization import learning_rate
from divdet.engine.schedule import Clock, steps_per_epoch, with_min_steps
from divdet.engine.settings import TrainSettings
from tests.classification.generated import write_npz
from tests.detection.generated import shapes
from tests.divdet.engine import test_loop


def test_epochs_are_raised_to_the_steps_and_the_schedule_with_them(capsys: pytest.CaptureFixture) -> None:
    """15 images in batches of 4: 3 steps an epoch, so 850 steps take 284 epochs."""
    recipe = DetectionTrainSettings(
        epochs=17, min_steps=850, batch_size=4, warmup_epochs=2, cot_warmup_epochs=1, evaluate_every=10
    )
    raised = with_min_steps(recipe, steps_per_epoch(15, recipe))
    scale = 284 / 17
    assert (raised.epochs, raised.evaluate_every) == (284, round(10 * scale))
    assert (raised.warmup_epochs, raised.cot_warmup_epochs) == pytest.approx((2 * scale, scale))
    for part in (0, 0.05, 0.1, 0.5, 0.99):
        assert learning_rate(raised, part * 284) == pytest.approx(learning_rate(recipe, part * 17))
    assert "284 epochs instead of 17, since an epoch has 3 steps" in capsys.readouterr().out
    assert with_min_steps(raised, 3) is raised  # as a resumed run's config.yaml says it
    assert with_min_steps(recipe, steps_per_epoch(205, recipe)) is recipe  # 17 epochs of 51 steps are 867
    assert with_min_steps(recipe, steps_per_epoch(15, recipe, replicas=2)).epochs == 850
    steps = DetectionTrainSettings(epochs=10, min_steps=60, batch_size=4, schedule="step", milestones=[6, 9])
    assert with_min_steps(steps, 3).milestones == [12, 18]


def test_milestones_and_warm_ups_beyond_the_end_are_told() -> None:
    """The paper's 43 and 54 of 65 epochs, in a run that was cut to 50, and to 12."""

    def notes(**settings: Any) -> list[str]:
        return list(schedule.schedule_notes(TrainSettings(schedule="step", milestones=[43, 54], **settings)))

    assert notes(epochs=65) == []
    assert [note.partition(":")[2] for note in notes(epochs=54)] == [
        " train.epochs 54 ends before train.milestones 54: the rate is not divided there; set train.milestones, too"
    ]
    assert notes(epochs=12)[0].startswith("note: train.epochs 12 ends before train.milestones 43, 54:")
    assert notes(epochs=2, warmup_epochs=2) == [
        "note: train.warmup_epochs 2 is not below train.epochs: the rate is not divided"
    ]
    assert "above AdamW's usual" in next(schedule.schedule_notes(TrainSettings(optimizer="adamw", lr=0.004)))  # photos
    assert not [*schedule.schedule_notes(TrainSettings(optimizer="adamw", lr=1e-3))]
    assert "no cosine follows" in next(schedule.schedule_notes(TrainSettings(epochs=2, warmup_epochs=2)))


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        ([], 850),
        (["--train.epochs", "3"], 0),
        (["--train.epochs=3"], 0),
        (["--train", "{epochs: 3}"], 0),
        (["--train={epochs: 3}"], 0),
        (["--train", "{epochs: 3, min_steps: 90}"], 90),
        (["--train", "{lr: 0.1}"], 850),
        (["--train.epochs", "3", "--train.min_steps", "90"], 90),
    ],
)
def test_epochs_on_the_command_line_are_meant_as_they_stand(words: list[str], steps: int) -> None:
    assert parse(TrainDetection, ["--config", "bccd", *words]).train.min_steps == steps


def test_photos_count_steps_too() -> None:
    """15 photos have 3 steps an epoch: 400 epochs, with an evaluation in the middle and one at the end, as 24 have."""
    photos = parse(TrainDetection, ["--config", "photos"]).train
    raised = with_min_steps(photos, 3)
    assert (photos.epochs, photos.evaluate_every, raised.epochs, raised.evaluate_every) == (24, 12, 400, 200)
    assert raised.warmup_epochs * 3 == pytest.approx(0.3 / 24 * 1200)
    assert with_min_steps(photos, 50) is photos


@pytest.mark.parametrize("recipe", ["bccd", "photos"])
@pytest.mark.parametrize("patience", [1, 2, 5, 20])
def test_patience_that_cannot_act_is_told_with_what_can(
    recipe: str, patience: int, capsys: pytest.CaptureFixture
) -> None:
    """The recipes evaluate twice: a run of so many steps never ends early. What the note says to set does."""

    def earliest_end(settings: TrainSettings) -> int | None:
        best = Best("AP", settings.patience)
        for epoch in range(1, settings.epochs):
            best.take({"AP": 0.0} if epoch % settings.evaluate_every == 0 else {})
            if best.no_better():
                return epoch
        return None

    words = ["--config", recipe, "--patience", str(patience)]
    given = parse(TrainDetection, words).train
    assert earliest_end(with_min_steps(given, 3)) is None
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith(f"note: train.patience {patience} counts evaluations, not epochs, and never ends this run")
    assert f"train.evaluate_every {given.evaluate_every} makes 2 of them in {given.epochs} epochs" in line
    advice = line.rpartition("; set ")[2].split()
    for steps in (3, 51, 200):
        better = with_min_steps(parse(TrainDetection, [*words, *advice]).train, steps)
        assert earliest_end(better) < better.epochs
    assert "note" not in capsys.readouterr().out


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


def test_a_finished_run_makes_no_other_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    test_loop.train(tmp_path / "old")
    resume = str(tmp_path / "old/last.pt")
    with pytest.raises(UserError, match=r"old/last\.pt: the run already has 3 epochs, .*new would stay empty: raise"):
        test_loop.train(tmp_path / "new", resume=resume)
    assert not (tmp_path / "new").exists()
    test_loop.train(tmp_path / "old", resume=resume)
    assert "the run already has 3 epochs: nothing to do; raise train.epochs to go on" in capsys.readouterr().out


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
    printed = capsys.readouterr().out
    assert "the run already has 4 epochs of 9: no better score than 0.3" in printed
    assert "nothing to do; raise train.patience to go on" in printed
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
        found = with_min_steps(schedule.TrainSettings(epochs=2, batch_size=4, min_steps=12, warmup_epochs=0.5), 3)
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


def test_a_resumed_run_keeps_its_epochs_where_an_epoch_has_other_steps(capsys: pytest.CaptureFixture) -> None:
    """284 epochs of 3 steps go on as 284 epochs of 1 step, as on three processes, not as 850."""
    recipe = DetectionTrainSettings(
        epochs=17, min_steps=850, batch_size=4, warmup_epochs=2, cot_warmup_epochs=1, evaluate_every=10
    )
    raised = with_min_steps(recipe, 3)
    saved = Checkpoint("detection", {}, to_dict(TrainDetection(train=raised)))
    for given in (recipe, raised):  # by the command it began with, and by its config.yaml
        for steps in (1, 3, 51):
            assert with_min_steps(given, steps, saved) == raised
    assert "284 epochs instead of 17, as the run began with" in capsys.readouterr().out
    # What is asked for anew counts: epochs on the command line set min_steps to 0
    asked = replace(recipe, epochs=30, min_steps=0)
    assert with_min_steps(asked, 1, saved) is asked
    assert with_min_steps(replace(recipe, min_steps=900), 1, saved).epochs == 900
    assert with_min_steps(replace(recipe, evaluate_every=1), 1, saved) == replace(raised, evaluate_every=17)
    longer = replace(recipe, epochs=400)
    assert with_min_steps(longer, 1, saved) is longer
    old = Checkpoint("detection", {}, {"train": {"epochs": 17}})
    assert with_min_steps(recipe, 1, old).epochs == 850


@pytest.mark.parametrize("task", ["classification", "detection"])
def test_a_run_that_has_its_epochs_is_done_with_another_batch_too(tmp_path: Path, task: str) -> None:
    """8 images, 4 steps: 2 epochs of batches of 4, which do not become 4 where the batch is 8."""
    steps = {"epochs": 1, "batch_size": 4, "min_steps": 4, "workers": 0, "lr": 0.01}
    options = {"output": str(tmp_path / "run"), "device": "cpu", "resume": "auto"}
    if task == "classification":
        images = str(write_npz(tmp_path / "images.npz", train=8, test=4))
        model, data = classification.ModelSettings("resnet10_16", 1), classification.DataSettings("npz", images)
        data, settings = replace(data, image_size=8), classification.ClassificationTrainSettings(**steps)
        config, run = classification.TrainClassification(model, data, settings, **options), train_classifier
    else:
        model, settings = ModelSettings("resnet10_16", 1), DetectionTrainSettings(**steps)
        config, run = TrainDetection(model, shapes(tmp_path), settings, **options), train_detector
    history = [run(replace(config, train=replace(config.train, batch_size=size))) for size in (4, 8)]
    assert history[0] == history[1]
    assert [json.loads(line)["epoch"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()] == [1, 2]
