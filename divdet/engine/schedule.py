"""How long a run is, in epochs, steps and time."""

import math
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TypeVar

from divdet.engine.checkpoint import Checkpoint
from divdet.engine.cli import flatten
from divdet.engine.settings import TrainSettings
from divdet.engine.words import counted, in_words

Settings = TypeVar("Settings", bound=TrainSettings)

_FIRST_STEPS, _FIRST_SECONDS = 5, 5.0  # measured before the rest is estimated


def steps_per_epoch(images: int, settings: TrainSettings, replicas: int = 1) -> int:
    """Steps of an epoch: full ones only, and at least one (see ``EpochSampler``)."""
    return max(images // (settings.batch_size * settings.accumulate * replicas), 1)


def with_min_steps(settings: Settings, steps: int, resumed: Checkpoint | None = None) -> Settings:
    """Raises the epochs until the run has ``settings.min_steps`` steps, and prints that it does.

    Warm-ups, milestones and the epochs between evaluations grow in proportion, so the rate at a given part of the run
    stays the same.

    Args:
        settings: the recipe.
        steps: of an epoch (see `steps_per_epoch`).
        resumed: of the run that goes on. With the same ``min_steps`` it keeps its epochs: where an epoch has other
            steps than before (of other processes, batches or images), they must not change in the middle of it.
    """
    if note := patience_note(settings):
        print(note)
    kept = resumed is not None and flatten(resumed.config).get("train.min_steps") == settings.min_steps > 0
    epochs = resumed.setting("train.epochs", int) if kept else math.ceil(settings.min_steps / steps)
    if epochs <= settings.epochs:
        return settings
    scale = epochs / settings.epochs
    why = "as the run began with" if kept else f"since an epoch has {counted(steps, 'step')}"
    print(
        f"train.min_steps {settings.min_steps}: {epochs} epochs instead of {settings.epochs}, {why}; "
        "--train.epochs on the command line overrides it"
    )
    warm_ups = [field.name for field in fields(settings) if field.name.endswith("warmup_epochs")]
    return replace(
        settings,
        epochs=epochs,
        milestones=[round(epoch * scale) for epoch in settings.milestones],
        evaluate_every=round(settings.evaluate_every * scale),
        **{name: getattr(settings, name) * scale for name in warm_ups},
    )


def patience_note(settings: TrainSettings) -> str:
    """A line on ``train.patience`` that can never act, with settings by which it can; empty where it can.

    At the earliest it acts after the evaluation number patience + 1, if the first was the best, before the last epoch.
    """
    patience, every, epochs = settings.patience, settings.evaluate_every, settings.epochs
    if not patience or (patience + 1) * every < epochs:
        return ""
    evaluations = math.ceil(epochs / every)
    what = f"train.evaluate_every {every} makes {evaluations} of them in {counted(epochs, 'epoch')}"
    if epochs < 3:
        advice = "set it to 0, or train longer"
    elif patience + 1 < epochs:  # half of the run at the earliest
        advice = f"set --train.evaluate_every {max(epochs // (2 * patience + 2), 1)}"
    else:
        advice = f"set --train.evaluate_every 1 --train.patience {max(epochs // 4, 1)}"
    return f"note: train.patience {patience} counts evaluations, not epochs, and never ends this run: {what}; {advice}"


def schedule_notes(settings: TrainSettings) -> Iterator[str]:
    """Notes on learning rates that the schedule never reaches, or that suit another optimizer."""
    epochs = settings.epochs
    if settings.optimizer == "adamw" and settings.lr > 0.003:
        yield f"note: train.lr {settings.lr:g} is above AdamW's usual 0.0001 to 0.001: set train.lr, too"
    if settings.warmup_epochs >= epochs:
        missed = "no cosine follows" if settings.schedule == "cosine" else "the rate is not divided"
        yield f"note: train.warmup_epochs {settings.warmup_epochs:g} is not below train.epochs: {missed}"
    elif late := [str(epoch) for epoch in settings.milestones if epoch >= epochs]:
        yield (
            f"note: train.epochs {epochs} ends before train.milestones {', '.join(late)}: the rate is not divided "
            "there; set train.milestones, too"
        )


class Clock:
    """Estimates how long the rest of a run takes, by the mean time of a step; evaluations are not counted.

    The first step is left out: it takes longer than all others.
    """

    def __init__(self) -> None:
        self.steps, self.seconds, self._since, self._told = -1, 0.0, 0.0, False

    def start(self) -> None:
        """A part of the training begins."""
        self._since = time.perf_counter()

    def step(self) -> None:
        """A step is done."""
        now = time.perf_counter()
        if self.steps >= 0:
            self.seconds += now - self._since
        self.steps, self._since = self.steps + 1, now

    def left(self, steps: int) -> str:
        """The time of so many further steps, such as ``, 4 min 30 s left``; empty before it can be told."""
        return f", {in_words(self.seconds / self.steps * steps)} left" if self.steps > 0 else ""

    def first_estimate(self, steps: int) -> str:
        """A line on the ``steps`` that are left, once, as soon as the first steps allow it; otherwise empty."""
        if self._told or self.steps < _FIRST_STEPS or self.seconds < _FIRST_SECONDS:
            return ""
        self._told, pace = True, self.seconds / self.steps
        if pace * steps < _FIRST_SECONDS:
            return ""
        words = f"the {steps} steps left take about {in_words(pace * steps)}, evaluations not counted"
        return f"{pace:.2g} s a step: {words}"
