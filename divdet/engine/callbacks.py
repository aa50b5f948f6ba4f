"""Callbacks: your own code in a training run; the loggers are callbacks, too. Nothing here imports torch."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from divdet.engine.errors import UserError
from divdet.engine.stopping import Stopped

if TYPE_CHECKING:
    from torch import nn

Status = Literal["completed", "stopped", "failed"]


@dataclass
class Run:
    """A training run, as callbacks see it.

    Attributes:
        folder: the run's, with last.pt, best.pt and metrics.jsonl.
        config: the resolved recipe, as nested dicts.
        model: the network as it is trained, on its device; with member_parallel this process's member. Leave its mode
            (train or eval) as it was.
        history: the lines of metrics.jsonl so far.
        epochs: number of the whole run's epochs.
        steps: number of an epoch's optimizer steps.
        seconds: how long the last epoch trained, without its evaluation.
        stop_reason: the reason given to ``stop``; empty until then.
    """

    folder: Path
    config: dict[str, Any]
    model: nn.Module
    history: list[dict[str, Any]]
    epochs: int
    steps: int
    seconds: float = 0.0
    stop_reason: str = ""

    def stop(self, reason: str = "a callback asked for it") -> None:
        """Ends the run: in ``on_epoch_end`` there, in ``on_step_end`` within three more steps, without an evaluation.

        last.pt holds the run, and ``resume="auto"`` continues it.
        """
        self.stop_reason = self.stop_reason or reason


@dataclass(frozen=True)
class Step:
    """An optimizer step.

    Attributes:
        number: counted from 1, across all epochs.
        epoch: the epoch that it belongs to, from 1.
        losses: means over the step's images, of all processes; ``loss`` is what is minimized.
        lr: the learning rate.
    """

    number: int
    epoch: int
    losses: dict[str, float]
    lr: float


class Callback:
    """What a run calls; each method does nothing unless overridden.

    Under torchrun only the first process calls it, so a callback must not use torch.distributed. Exceptions end the run
    with their own traceback; last.pt stays as it was saved.
    """

    def on_train_begin(self, run: Run) -> None:
        """Before the first step; not called where nothing is left to train."""

    def on_step_end(self, run: Run, step: Step) -> None:
        """After a step. On a GPU losses arrive a step late: ``run.model`` has then already made the next step."""

    def on_epoch_end(self, run: Run, epoch: int, metrics: dict[str, float]) -> None:
        """After the evaluation, when last.pt and best.pt are written; ``metrics`` is the line of metrics.jsonl."""

    def on_train_end(self, run: Run, status: Status) -> None:
        """At the end: ``completed``, ``stopped`` by a signal or by ``Run.stop``, or ``failed`` with an exception."""


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Raises UserError for what is no callback, and for a method that would never be called."""
    if not isinstance(callbacks, list | tuple):
        raise UserError(f"callbacks is {type(callbacks).__name__}: give a list of callbacks")
    hooks = [name for name in dir(Callback) if name.startswith("on_")]
    for callback in callbacks:
        if not isinstance(callback, Callback):
            kind = f"the class {callback.__name__}" if isinstance(callback, type) else type(callback).__name__
            raise UserError(f"callbacks has {kind}: give objects of subclasses of divdet.Callback")
        for name in sorted({name for name in dir(callback) if name.startswith("on_")} - set(hooks)):
            if close := difflib.get_close_matches(name, hooks, n=1):
                raise UserError(f"callbacks: {type(callback).__name__} has {name}: did you mean {close[0]}?")


@dataclass
class Callbacks:
    """Calls the callbacks of a run in their order.

    Attributes:
        callbacks: none on other processes than the first.
        run: what they are given.
        read: steps whose losses have been read, and which no callback has seen yet.
    """

    callbacks: Sequence[Callback]
    run: Run
    read: list[Step] = field(default_factory=list, init=False)

    @contextmanager
    def around_training(self) -> Iterator[None]:
        """Calls ``on_train_begin``, and at the end ``on_train_end`` of all that have begun."""
        status: Status = "failed"
        with ExitStack() as ends:  # calls all of them, in reverse order, even if one raises
            for callback in self.callbacks:
                _call(callback.on_train_begin, self.run)
                ends.callback(lambda own=callback: _call(own.on_train_end, self.run, status))
            try:
                yield
                early = len(self.run.history) < self.run.epochs
                status = "stopped" if self.run.stop_reason and early else "completed"
            except Stopped:
                status = "stopped"
                raise
            except KeyboardInterrupt:  # the second Ctrl-C: at once
                ends.pop_all()
                raise

    def steps(self) -> None:
        """Calls ``on_step_end`` for each step of ``read``."""
        read, self.read = self.read, []
        for step in read:
            for callback in self.callbacks:
                _call(callback.on_step_end, self.run, step)

    def epoch(self, metrics: dict[str, float]) -> None:
        """Calls ``on_epoch_end``."""
        for callback in self.callbacks:
            _call(callback.on_epoch_end, self.run, metrics["epoch"], dict(metrics))


def _call(hook: Callable[..., None], *arguments: Any) -> None:
    try:
        hook(*arguments)
    except Exception as error:
        error.of_callback = True  # so that ``divdet.engine.faults.explained`` leaves it alone
        raise
