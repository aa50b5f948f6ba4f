"""TensorBoard's events of a run."""

from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.files import reason


class Events:
    """The event files of a folder; each process that writes there adds one of its own.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def write(self, epoch: int, values: dict[str, float]) -> None:
        """Adds an epoch's numbers; what other processes wrote of this epoch and later ones no longer counts.

        Raises:
            UserError: when they cannot be written.
        """
        try:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter  # slow to import

                self._writer = SummaryWriter(str(self.folder), purge_step=epoch)
            for name, value in values.items():
                self._writer.add_scalar(name, value, epoch)
            self._writer.flush()
        except OSError as error:
            raise self._failed(error) from error

    def refill(self, history: list[dict[str, Any]]) -> None:
        """Adds what a run that was killed has in its ``history`` (the lines of metrics.jsonl), but not in its events.

        Raises:
            UserError: when they cannot be read or written.
        """
        shown = self._shown() if any(self.folder.glob("events.out.tfevents.*")) else {}
        missing = [line["epoch"] for line in history if line.keys() - {"epoch"} - shown.get(line["epoch"], {}).keys()]
        for line in history:
            epoch = line["epoch"]
            if missing and epoch >= missing[0]:  # from there on none of the earlier files counts
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

    def close(self) -> None:
        """Closes the event file."""
        if self._writer is None:
            return
        try:
            self._writer.close()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> UserError:
        return UserError(
            f"{self.folder}: TensorBoard's events cannot be written ({reason(error)}); last.pt holds the epoch"
        )
