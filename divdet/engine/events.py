"""TensorBoard events of a run."""

import os
import platform
import time
from pathlib import Path
from typing import Any

from divdet.engine.errors import UserError
from divdet.engine.files import reason

_PREFIX = "events.out.tfevents."  # of the files' names


class Events:
    """Writes event files to a folder of a run; each process adds a file of its own.

    torch's SummaryWriter is not used: it writes in a thread, which prints a traceback when the disk is full.

    Attributes:
        history: lines of metrics.jsonl whose epochs a killed run may not have written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history: list[dict[str, Any]] = []
        self._file: Path | None = None

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds the numbers of a step or an epoch; they replace what earlier processes wrote from there on.

        Raises:
            UserError: where they cannot be written.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # slow to import
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        now = time.time()
        numbers = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        events = [Event(wall_time=now, step=step, summary=Summary(value=numbers))]
        if self._file is None:
            self._file = self.folder / f"{_PREFIX}{self._number()}.{platform.node()}.{os.getpid()}"
            start = Event(wall_time=now, step=step, session_log=SessionLog(status=SessionLog.START))
            events = [Event(wall_time=now, file_version="brain.Event:2"), start, *events]
        try:
            self.folder.mkdir(exist_ok=True)
            with open(self._file, "ab") as file:
                for event in events:
                    RecordWriter(file).write(event.SerializeToString())
        except OSError as error:
            raise UserError(
                f"{self.folder}: TensorBoard's events cannot be written ({reason(error)}); last.pt holds the last "
                "checkpoint, if one was written"
            ) from error

    def _number(self) -> int:
        """The time, or what follows the newest file, since TensorBoard sorts files by name: clocks may be set back."""
        numbers = (path.name.removeprefix(_PREFIX).partition(".")[0] for path in self.folder.glob(f"{_PREFIX}*"))
        return max([time.time_ns(), *(int(number) + 1 for number in numbers if number.isdecimal())])

    def refill(self) -> None:
        """Adds the epochs of ``history`` that are missing; raises UserError where events cannot be read or written."""
        history, self.history = self.history, []
        shown = self._shown() if history and any(self.folder.glob(f"{_PREFIX}*")) else {}
        missing = [line["epoch"] for line in history if line.keys() - {"epoch"} - shown.get(line["epoch"], {}).keys()]
        for line in history:
            epoch = line["epoch"]
            if missing and epoch >= missing[0]:  # TensorBoard ignores earlier files from there on
                self.write(epoch, shown.get(epoch, {}) | {name: line[name] for name in line if name != "epoch"})

    def _shown(self) -> dict[int, dict[str, float]]:
        """The numbers that TensorBoard shows, by epoch."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import

        try:
            events = EventAccumulator(str(self.folder), {"scalars": 0}).Reload()
        except OSError as error:
            raise UserError(f"{self.folder}: TensorBoard's events cannot be read ({reason(error)})") from error
        shown: dict[int, dict[str, float]] = {}
        for name in events.Tags()["scalars"]:
            for event in events.Scalars(name):
                shown.setdefault(event.step, {})[name] = event.value
        return shown
