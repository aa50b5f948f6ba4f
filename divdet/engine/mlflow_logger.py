"""MLflow."""

import os
import time
from typing import Any

from divdet.engine.callbacks import Run, Status, Step
from divdet.engine.cli import flatten
from divdet.engine.errors import UserError
from divdet.engine.logger import numbers_of
from divdet.engine.remote_loggers import PROJECT, RemoteLogger, in_a_line

# A server that does not answer: MLflow itself tries for minutes, in silence
_MLFLOW_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}  # seconds


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
                why = f"its run cannot be continued ({in_a_line(error)}): remove the file to begin a new one"
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
