"""Weights & Biases and MLflow. What cannot be sent is reported and counted, and does not end a run."""

import json
import os
import time
import uuid
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from divdet.engine.callbacks import Run, Status, Step
from divdet.engine.cli import flatten
from divdet.engine.errors import UserError
from divdet.engine.files import remove_unfinished, write_json
from divdet.engine.logger import Logger, epoch_numbers, numbers_of

_PATIENCE = 10  # times the length of a failed call, before the next one: an unreachable server costs a tenth of a run
_UNSURE = 30  # seconds: W&B writes and sends every 15, and what it has not is lost if the run is killed
# A server that does not answer: MLflow itself tries for minutes, in silence
_MLFLOW_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}  # seconds
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
            raise UserError(f"train.loggers: {self.name} cannot begin: {_in_a_line(error)}; {self.remedy}") from error

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
                print(f"note: {self.name} failed, the run goes on without it for now: {_in_a_line(error)}")
            return False
        return True


class WandbLogger(RemoteLogger):
    """Weights & Biases, configured by its own environment variables; a run that the user has begun is used, too.

    W&B may lose the last seconds before a kill, so they are sent again: what it had kept of them is then there twice,
    at the same epochs and steps.
    """

    name = "wandb"
    remedy = "WANDB_MODE=offline needs neither a key nor the network"

    def begin(self, run: Run, known: dict[str, Any]) -> None:
        import wandb

        self._own = wandb.run is None
        self._id = known.get("id") or uuid.uuid4().hex[:12]
        if self._own:
            options: dict[str, Any] = {"id": os.environ.get("WANDB_RUN_ID", self._id), "resume": "allow"}
            for name, variable, value in (
                ("project", "WANDB_PROJECT", PROJECT),
                ("name", "WANDB_NAME", run.folder.name),
                ("dir", "WANDB_DIR", str(run.folder)),
            ):
                options |= {} if os.environ.get(variable) else {name: value}
            self._run = wandb.init(**options)
        else:
            self._run = wandb.run
        self._run.config.update(run.config, allow_val_change=True)
        self._defined: set[str] = set()
        kept = known if known.get("id") == self._run.id else {}
        self._id, self.sent, self._step = self._run.id, kept.get("epoch", 0), kept.get("step", 0)
        self._recent: deque[tuple[float, int, int]] = deque()  # (time, epoch, step) of what a kill may still lose
        self._remember(self.sent, self._step)

    def _remember(self, epoch: int, step: int) -> None:
        self.remember(id=self._id, epoch=epoch, step=step)

    def send_epoch(self, epoch: int, values: dict[str, float]) -> None:
        self._log("epoch", epoch, values)
        self._note(epoch, self._step)

    def send_step(self, step: Step) -> None:
        if step.number > self._step:  # else it was sent before the run was stopped
            self._log("step", step.number, numbers_of(step))
            self._step = step.number
            self._note(self.sent, step.number)

    def _note(self, epoch: int, step: int) -> None:
        now, safe = time.monotonic(), None
        self._recent.append((now, epoch, step))
        while self._recent and self._recent[0][0] < now - _UNSURE:
            safe = self._recent.popleft()[1:]
        if safe:
            self._remember(*safe)

    def _log(self, axis: str, place: int, values: dict[str, float]) -> None:
        for name in values.keys() - self._defined:
            self._run.define_metric(name, step_metric=axis)
        self._defined |= values.keys()
        self._run.log({axis: place} | values)

    def end(self, status: Status) -> None:
        if self._own:
            self._run.finish(exit_code=int(status == "failed"))
        self._remember(self.sent, self._step)


class MlflowLogger(RemoteLogger):
    """MLflow, at its tracking URI, or in mlflow.db in the run's folder; a run that the user has begun is used, too."""

    name = "mlflow"
    remedy = "see MLFLOW_TRACKING_URI; without it the run's folder gets a store of its own"

    def begin(self, run: Run, known: dict[str, Any]) -> None:
        import mlflow
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        for variable, value in _MLFLOW_LIMITS.items():
            os.environ.setdefault(variable, value)
        own_store = not mlflow.is_tracking_uri_set()
        uri = f"sqlite:///{run.folder.resolve() / 'mlflow.db'}" if own_store else None
        self._client, active = MlflowClient(uri), mlflow.active_run()
        self._own, self._id = active is None, active.info.run_id if active else known.get("run_id")
        if self._id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self._client.get_experiment_by_name(name)
            place = (run.folder.resolve() / "mlartifacts").as_uri() if own_store else None  # for what users add
            experiment = found.experiment_id if found else self._client.create_experiment(name, place)
            self._id = self._client.create_run(experiment, run_name=run.folder.name).info.run_id
        elif self._own:
            try:
                self._client.update_run(self._id, status="RUNNING")
            except MlflowException as error:
                why = f"its run cannot be continued ({_in_a_line(error)}): remove the file to begin a new one"
                raise UserError(f"{self._file}: {why}") from error
        self.remember(run_id=self._id)
        self._log_config(run)
        self._known: dict[str, set[int]] = {}

    def _log_config(self, run: Run) -> None:
        from mlflow.entities import Param

        held = self._client.get_run(self._id).data.params
        values = {key: str(value)[:500] for key, value in flatten(run.config).items()}
        params = [Param(key, value) for key, value in values.items() if key not in held]  # they cannot change
        for first in range(0, len(params), 100):
            self._client.log_batch(self._id, params=params[first : first + 100])

    def _log(self, place: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        for name in values.keys() - self._known.keys():
            self._known[name] = {metric.step for metric in self._client.get_metric_history(self._id, name)}
        now = int(time.time() * 1000)
        new = {name: value for name, value in values.items() if place not in self._known[name]}
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, place) for name, value in new.items()])
        for name in new:
            self._known[name].add(place)

    def send_epoch(self, epoch: int, values: dict[str, float]) -> None:
        self._log(epoch, values)

    def send_step(self, step: Step) -> None:
        self._log(step.number, numbers_of(step))

    def end(self, status: Status) -> None:
        if self._own:
            states = {"completed": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
            self._client.set_terminated(self._id, states[status])


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


def _in_a_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
