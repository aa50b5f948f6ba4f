"""Weights & Biases and MLflow. What cannot be sent is reported and counted, and does not end a run."""

import json
import time
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from divdet.engine.callbacks import Run, Status, Step
from divdet.engine.errors import UserError
from divdet.engine.files import remove_unfinished, write_json
from divdet.engine.logger import Logger, epoch_numbers

_PATIENCE = 10  # times the length of a failed call, before the next one: an unreachable server costs a tenth of a run
PROJECT = "divdet"  # where the environment names none


class RemoteLogger(Logger):
    """Sends numbers to a service that may not answer.

    Epochs that could not be sent are sent with the next one, or at the end; steps that could not be sent are lost.
    ``<name>.json`` in the run's folder names the service's run, so that a resumed run continues it.

    Attributes:
        name: of the service: as in ``train.loggers``, in messages and file names.
        remedy: what the user can do if it cannot begin.
        sent: the last epoch that the service has.
    """

    name: str
    remedy: str

    def __init__(self, log_every: int) -> None:
        super().__init__(log_every)
        self.sent = self._failures = self._lost_steps = 0
        self._next_try = 0.0

    @abstractmethod
    def begin(self, run: Run, known: dict[str, Any]) -> None:
        """Starts a run of the service, or continues the one that ``known``, the file's content, names."""

    @abstractmethod
    def send_epoch(self, epoch: int, values: dict[str, float]) -> None:
        """Sends an epoch's numbers."""

    @abstractmethod
    def send_step(self, step: Step) -> None:
        """Sends a step's numbers."""

    @abstractmethod
    def end(self, status: Status) -> None:
        """Ends the run of the service."""

    def on_train_begin(self, run: Run) -> None:
        self._file = run.folder / f"{self.name}.json"
        remove_unfinished(self._file)
        resumes = run.config.get("resume") is not None
        try:
            self.begin(run, _read(self._file) if resumes else {})
            self._send_epochs(run)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"train.loggers: {self.name} cannot begin: {in_a_line(error)}; {self.remedy}") from error

    def complete(self, run: Run) -> None:
        self._file = run.folder / f"{self.name}.json"
        if _read(self._file).get("ended", True):
            return
        self.on_train_begin(run)  # the run was killed before the service had all
        self.on_train_end(run, "completed")

    def log_step(self, step: Step) -> None:
        if not self._try(lambda: self.send_step(step)):
            self._lost_steps += 1

    def on_epoch_end(self, run: Run, epoch: int, metrics: dict[str, float]) -> None:
        self._try(lambda: self._send_epochs(run))

    def on_train_end(self, run: Run, status: Status) -> None:
        self._next_try = 0.0
        self._try(lambda: self._send_epochs(run))
        if self._try(lambda: self.end(status)):
            self.remember(**self._remembered | {"ended": True})
        missing = len([line for line in run.history if line["epoch"] > self.sent])
        if self._failures:
            lacking = f"{missing} of {len(run.history)} epochs and {self._lost_steps} steps are missing there"
            print(f"{self.name}: {self._failures} calls failed; {lacking}; metrics.jsonl has all epochs")

    def remember(self, **known: Any) -> None:
        """Writes what the next process needs to continue the service's run."""
        self._remembered = {"ended": False} | known
        write_json(self._remembered, self._file)

    def _send_epochs(self, run: Run) -> None:
        for line in run.history:
            if line["epoch"] > self.sent:
                seconds = {"seconds": run.seconds} if line is run.history[-1] and run.seconds else {}
                self.send_epoch(line["epoch"], epoch_numbers(line) | seconds)
                self.sent = line["epoch"]

    def _try(self, call: Callable[[], None]) -> bool:
        """Calls, unless a call failed a short while ago; returns whether it succeeded."""
        began = time.monotonic()
        if began < self._next_try:
            return False
        try:
            call()
        except Exception as error:
            now = time.monotonic()
            self._next_try = now + _PATIENCE * (now - began)
            self._failures += 1
            if self._failures == 1:
                print(f"note: {self.name} failed, the run goes on without it for now: {in_a_line(error)}")
            return False
        return True


def _read(file: Path) -> dict[str, Any]:
    """What a file of ``RemoteLogger.remember`` holds; nothing where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}): remove it to begin a new run there") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: holds no object: remove it to begin a new run there")
    return found


def in_a_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
