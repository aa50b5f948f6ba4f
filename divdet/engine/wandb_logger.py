"""Weights & Biases."""

import os
import time
import uuid
from collections import deque
from typing import Any

from divdet.engine.callbacks import Run, Status, Step
from divdet.engine.logger import numbers_of
from divdet.engine.remote_loggers import PROJECT, RemoteLogger

_UNSURE = 30  # seconds: W&B writes and sends every 15, and what it has not is lost if the run is killed


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
