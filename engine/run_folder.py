"""The folder of a training run: config.yaml, metrics.jsonl, TensorBoard events, last.pt and best.pt."""

import json
import math
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from engine import checkpoint
from engine.cli import flatten, to_dict, to_yaml
from engine.errors import UserError
from engine.files import make_folder, remove_unfinished, write_text

# Settings that may differ between the parts of one run without changing its weights.
_FREE = {"output", "device", "resume", "train.workers", "train.save_every", "train.member_parallel"}
# Settings that a checkpoint's weights and optimizer state are made for.
_FIXED = ("model.", "seed", "train.decay_all")
# What only a run that continues needs, not those who use its weights.
_OF_RUNS = {"optimizer", "scaler", "trained", "average_steps", "batch", "layout", "totals", "best"}
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}  # torch.amp.GradScaler's


class RunFolder:
    """The folder of a run, new or to be continued.

    Args:
        config: the run's configuration, with ``output`` and ``resume`` among its fields. ``resume`` is None (a
            new run), ``auto`` (continue where ``output`` holds a last.pt, else start), or a checkpoint file.
        kind: ``classification`` or ``detection``.
        meta: what the run's checkpoints hold beside the weights (see ``engine.task.Task``).

    Raises:
        UserError: when a new run would overwrite an old one, or when ``resume`` names no usable checkpoint.
    """

    def __init__(self, config: Any, kind: str, meta: dict[str, Any]) -> None:
        self.config, self.kind, self.meta = config, kind, meta
        self.path = Path(config.output or f"runs/{kind}")
        self.last, self.best = self.path / "last.pt", self.path / "best.pt"
        self.resumed = self._find_checkpoint()
        #: The file of another folder with which this run began, as it was when it is continued.
        self.origin: str | None = (self.resumed or {}).get("origin")
        if self.resumed and self.config.resume not in ("auto", str(self.last)) and not self.last.exists():
            self.origin = str(Path(self.config.resume).resolve())
        self._events: Any = None

    def begin(self, history: list[dict[str, Any]]) -> None:
        """Creates the folder, which a refused recipe does not leave behind, and writes what a run begins with.

        That is config.yaml, and metrics.jsonl of the epochs before.

        Raises:
            UserError: when the folder cannot be written.
        """
        make_folder(self.path)
        for name in ("config.yaml", "metrics.jsonl", "last.pt", "best.pt"):
            remove_unfinished(self.path / name)  # of a run that was killed while it wrote
        write_text(to_yaml(self.config), self.path / "config.yaml")
        if self.origin and not self.last.exists():  # from here on this folder can be continued
            checkpoint.save(self.resumed | {"origin": self.origin}, self.last)
        if history:
            self._write_metrics(history)

    def _find_checkpoint(self) -> dict[str, Any] | None:
        resume = self.config.resume
        if resume is None:
            if os.path.exists(self.last):  # also false for a name that is too long
                raise UserError(f"{self.path} already holds a run: add --resume auto, or choose another --output")
            return None
        file = self.last if resume == "auto" else Path(resume)
        if resume == "auto" and not os.path.exists(file):
            return None
        if self.last.exists() and self._came_from(file):
            file = self.last  # torchrun starts the processes again with the same words
        if self.last.exists() and file.resolve() != self.last.resolve():
            raise UserError(f"{self.path} already holds a run: choose another --output to continue from {file}")
        found = checkpoint.load(file, self.kind)
        if "optimizer" not in found:
            raise UserError(f"{file}: holds no optimizer state, so no run can continue from it; use a last.pt")
        kinds = {"config": dict, "meta": dict, "epoch": int, "history": list, "scaler": dict, "optimizer": dict}
        kinds |= {"batch": int, "layout": dict, "totals": dict, "trained": dict, "average_steps": int, "best": float}
        absent = [key for key, kind in kinds.items() if not isinstance(found.get(key), kind)]
        if absent:
            raise UserError(f"{file}: holds no {absent[0]}, so no run can continue from it; use a last.pt")
        counts = [found[key] for key in ("epoch", "batch", "average_steps")]
        counts += [found["layout"].get(key) for key in ("batches", "batch_images", "accumulate")]
        tensors = [*found["trained"].items(), *found["optimizer"].items()]
        if (
            not all(isinstance(count, int) and 0 <= count < 2**63 for count in counts)
            or found["scaler"].keys() not in (set(), _SCALER)
            or not all(isinstance(n, int | float) and 0 <= n < 2**63 for n in found["scaler"].values())
            or math.isnan(found["best"])
            or not all(isinstance(total, float) for total in found["totals"].values())
            or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors)
            or len(found["history"]) != found["epoch"]
        ):
            raise UserError(f"{file}: what it says of its run is damaged; use another last.pt")
        old, new = flatten(found["config"]), flatten(to_dict(self.config))
        changed = sorted(key for key in old.keys() | new.keys() if key not in _FREE and old.get(key) != new.get(key))
        fixed = [key for key in changed if key.startswith(_FIXED)]
        if fixed:
            key = fixed[0]
            raise UserError(f"{file}: was trained with {key} = {old.get(key)}, not {new.get(key)}; resume with that")
        differing = [key for key in self.meta if found["meta"].get(key) != self.meta[key]]
        if differing:
            raise UserError(f"{file}: was trained with other {differing[0]}; resume with the same data and settings")
        inside = f" and batch {found['batch']} of the next" if found["batch"] else ""
        print(f"resuming {file} after epoch {found['epoch']}{inside}")
        for key in changed:
            print(f"  changed: {key} = {new.get(key)}" + (f", was {old[key]}" if key in old else ", a later setting"))
        return found

    def _came_from(self, file: Path) -> bool:
        return checkpoint.load(self.last, self.kind).get("origin") == str(file.resolve())

    def write(self, state: dict[str, Any], history: list[dict[str, Any]] | None, *, best: bool) -> None:
        """Writes a run as it stands; ``history`` is given at the end of an epoch.

        metrics.jsonl is written whole from ``history``, which last.pt also holds, so that after a kill
        between two writes the resumed run leaves no line doubled or missing. best.pt comes before last.pt:
        a kill between them repeats the evaluation and writes the same best.pt again.
        """
        if best:
            weights = {key: value for key, value in state.items() if key not in _OF_RUNS}
            checkpoint.save(weights, self.best)
        checkpoint.save(state | ({"origin": self.origin} if self.origin else {}), self.last)
        if history is not None:
            self._write_metrics(history)

    def _write_metrics(self, history: list[dict[str, Any]]) -> None:
        write_text("".join(json.dumps(line) + "\n" for line in history), self.path / "metrics.jsonl")

    def write_events(self, epoch: int, values: dict[str, float]) -> None:
        """Adds an epoch's numbers to the TensorBoard events.

        Raises:
            UserError: when they cannot be written.
        """
        try:
            if self._events is None:
                from torch.utils.tensorboard import SummaryWriter  # slow to import

                self._events = SummaryWriter(str(self.path), purge_step=epoch)
            for name, value in values.items():
                self._events.add_scalar(name, value, epoch)
            self._events.flush()
        except OSError as error:
            raise UserError(
                f"{self.path}: TensorBoard's events cannot be written ({error.strerror or error}); "
                f"{self.last.name} holds the epoch"
            ) from error

    def close(self) -> None:
        """Closes the event file."""
        if self._events is not None:
            self._events.close()
