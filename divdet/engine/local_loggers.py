"""Loggers that write to the run's folder; what they cannot write ends the run, as it does with its checkpoints."""

import csv
import io

from divdet.engine.callbacks import Run, Step
from divdet.engine.events import Events
from divdet.engine.files import remove_unfinished
from divdet.engine.logger import Logger, epoch_numbers, numbers_of
from divdet.engine.run_folder import write_changed


class TensorBoardLogger(Logger):
    """Events of epochs in the run's folder, of steps in ``steps/``, which TensorBoard shows as another run."""

    def on_train_begin(self, run: Run) -> None:
        self._epochs, self._steps = Events(run.folder), Events(run.folder / "steps")
        self._epochs.history = list(run.history)  # filled in with the next epoch

    def complete(self, run: Run) -> None:
        self.on_train_begin(run)
        self._epochs.refill()

    def log_step(self, step: Step) -> None:
        self._steps.write(step.number, numbers_of(step))

    def on_epoch_end(self, run: Run, epoch: int, metrics: dict[str, float]) -> None:
        self._epochs.refill()
        self._epochs.write(epoch, epoch_numbers(metrics) | {"seconds": run.seconds})


class CsvLogger(Logger):
    """metrics.csv: the lines of metrics.jsonl as rows. Columns stand in the order in which they first appear."""

    def on_train_begin(self, run: Run) -> None:
        remove_unfinished(run.folder / "metrics.csv")
        if run.history:
            self.complete(run)

    def complete(self, run: Run) -> None:
        names = dict.fromkeys(name for line in run.history for name in line)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(run.history)
        write_changed(text.getvalue(), run.folder / "metrics.csv")

    def on_epoch_end(self, run: Run, epoch: int, metrics: dict[str, float]) -> None:
        self.complete(run)
