"""What all loggers share: they are callbacks that pass a run's numbers on."""

from divdet.engine.callbacks import Callback, Run, Step


class Logger(Callback):
    """Logs every epoch, and every ``log_every``-th step; no steps where it is 0."""

    def __init__(self, log_every: int) -> None:
        self.log_every = log_every

    def complete(self, run: Run) -> None:
        """Adds the epochs that a kill kept from being logged; called where nothing is left to train."""

    def on_step_end(self, run: Run, step: Step) -> None:
        if self.log_every and step.number % self.log_every == 0:
            self.log_step(step)

    def log_step(self, step: Step) -> None:
        """Writes a step's numbers."""


def numbers_of(step: Step) -> dict[str, float]:
    """A step's numbers by the names that all loggers give them."""
    return {"step/lr": step.lr} | {f"step/{name}": value for name, value in step.losses.items()}


def epoch_numbers(line: dict[str, float]) -> dict[str, float]:
    """A line of metrics.jsonl without its epoch."""
    return {name: value for name, value in line.items() if name != "epoch"}
