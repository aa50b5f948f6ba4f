"""The folder of a training run: config.yaml, metrics.jsonl, TensorBoard events, last.pt and best.pt."""

import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from divdet.engine import checkpoint
from divdet.engine.cli import to_yaml
from divdet.engine.distributed import is_main_process
from divdet.engine.errors import UserError
from divdet.engine.events import Events
from divdet.engine.files import make_folder, reason, remove_unfinished, write_atomically, write_text
from divdet.engine.locking import LOCK, lock_folder
from divdet.engine.resuming import compare, read_run

# What only a run that continues needs, not those who use its weights.
_OF_RUNS = {"optimizer", "scaler", "trained", "average_steps", "batch", "layout", "totals", "best"}


class RunFolder:
    """The folder of a run, new or to be continued.

    Args:
        config: the run's configuration, with ``output`` and ``resume`` among its fields. ``resume`` is None (a
            new run), ``auto`` (continue where ``output`` holds a run, else start), or a checkpoint file.
        kind: ``classification`` or ``detection``.
        meta: what the run's checkpoints hold beside the weights (see ``divdet.engine.task.Task``).
        data: fingerprints of the ``training`` and the ``validation`` data; none on processes that write nothing.

    Attributes:
        resumed: the checkpoint that the run continues from; None for a new run.
        same_evaluation: whether the resumed run's evaluations measure what they measured before.

    Raises:
        UserError: when a new run would overwrite an old one, when ``resume`` names no usable checkpoint, or when
            another process writes to the folder.
    """

    def __init__(self, config: Any, kind: str, meta: dict[str, Any], data: dict[str, str] | None = None) -> None:
        self.config, self.kind, self.meta, self.data = config, kind, meta, data or {}
        self.path = Path(config.output or f"runs/{kind}")
        self.last, self.best = self.path / "last.pt", self.path / "best.pt"
        self.same_evaluation = True
        self._lock: BinaryIO | None = None
        if os.path.exists(self.path / LOCK) or (config.resume and os.path.exists(self.last)):
            self._take_lock()
        #: The epoch that last.pt holds if it is complete; and the epochs of this run's older checkpoints.
        self._whole: int | None = None
        self._kept: list[int] = []
        self.resumed = self._find_checkpoint()
        #: The file of another folder with which this run began, as it was when it is continued.
        self.origin: str | None = (self.resumed or {}).get("origin")
        if self.resumed and not self._holds_run():
            self.origin, self._whole, self._kept = str(Path(self.config.resume).resolve()), None, []
        self._events = Events(self.path)
        self._metrics_file, self._config_file = self.path / "metrics.jsonl", self.path / "config.yaml"
        self._config_written = False
        self._unfilled: list[dict[str, Any]] = []  # epochs that the events may lack

    def _take_lock(self) -> None:
        if self._lock is None and is_main_process():
            self._lock = lock_folder(self.path)

    def begin(self, history: list[dict[str, Any]], *, trains: bool = True) -> None:
        """Creates the folder, which a refused recipe does not leave behind, and writes what a run begins with.

        That is config.yaml in a new folder. In the folder of a killed run, epochs that its checkpoint has and its
        metrics.jsonl or events lack are added. If nothing is left to train, nothing else changes.

        Raises:
            UserError: when the folder cannot be written, or another run has begun there.
        """
        if not trains and self.origin and not self._holds_run():
            return
        make_folder(self.path)
        self._take_lock()
        if self.resumed is None and self._holds_run():
            raise UserError(f"{self.path} already holds a run: add --resume auto, or choose another --output")
        for file in (self._config_file, self._metrics_file, self.last, self.best):
            remove_unfinished(file)  # of a run that was killed while it wrote
        if trains and (self.resumed is None or not self._config_file.exists()):
            self._write_config()
        if self.origin and not self.last.exists():  # from here on this folder can be continued
            checkpoint.save(self.resumed | {"origin": self.origin, "kept": []}, self.last)
        if history:
            self._write_metrics(history)
        self._unfilled = list(history)
        if not trains:
            self._fill_events()

    def _holds_run(self) -> bool:
        return os.path.exists(self.last) or bool(self._kept_files())  # exists: also false for a name that is too long

    def _kept_files(self) -> list[Path]:
        """The files of `keep`, the newest first."""
        try:
            names = [name for name in os.listdir(self.path) if re.fullmatch(r"epoch_\d{4,18}\.pt", name)]
        except OSError:
            return []
        return [self.path / name for name in sorted(names, key=lambda name: int(name[6:-3]), reverse=True)]

    def _kept_file(self, epoch: int) -> Path:
        return self.path / f"epoch_{epoch:04d}.pt"

    def _find_checkpoint(self) -> dict[str, Any] | None:
        resume = self.config.resume
        if resume is None:
            if self._holds_run():
                raise UserError(f"{self.path} already holds a run: add --resume auto, or choose another --output")
            return None
        file = self.last if resume == "auto" else Path(resume)
        if resume == "auto" and not self._holds_run():
            return None
        if self._holds_run() and file.resolve() != self.last.resolve():
            # torchrun starts the processes again with the same words
            if not (self.last.exists() and self._began_with(file)):
                raise UserError(f"{self.path} already holds a run: choose another --output to continue from {file}")
            file = self.last
        try:
            found = read_run(file, self.kind)
        except UserError as error:
            if resume != "auto":
                raise
            file, found = self._find_kept(error)
        self.same_evaluation = compare(found, file, self.config, self.meta, self.data)
        self._kept = found["kept"]
        if file.resolve() != self.last.resolve():
            self._kept = [*self._kept, found["epoch"]]
        elif not found["batch"]:
            self._whole = found["epoch"]
        return found

    def _began_with(self, file: Path) -> bool:
        return checkpoint.load(self.last, self.kind).get("origin") == str(file.resolve())

    def _find_kept(self, error: UserError) -> tuple[Path, dict[str, Any]]:
        """The newest intact checkpoint of an earlier epoch; ``error`` says what is wrong with last.pt."""
        for file in self._kept_files():
            try:
                found = read_run(file, self.kind)
            except UserError as another:
                print(another)
                continue
            print(f"{error}; going on from {file.name}, the newest intact checkpoint")
            return file, found
        raise error

    def write(self, state: dict[str, Any], history: list[dict[str, Any]] | None, *, best: bool, keep: int = 1) -> None:
        """Writes a run as it stands.

        metrics.jsonl is written whole from ``history``, which last.pt also holds, so that after a kill
        between two writes the resumed run leaves no line doubled or missing. best.pt comes before last.pt:
        a kill between them repeats the evaluation and writes the same best.pt again.

        Args:
            state: what the checkpoint holds.
            history: the lines of metrics.jsonl; given at the end of an epoch.
            best: whether it is also best.pt.
            keep: checkpoints that are kept, last.pt among them.
        """
        if best:
            weights = {key: value for key, value in state.items() if key not in _OF_RUNS}
            checkpoint.save(weights, self.best)
        if not self._config_written:  # a resumed run's changes with its checkpoint
            self._write_config()
        if keep > 1 and self._whole is not None:
            self._keep_last(self._whole)
        own = {"data": self.data, "kept": self._kept}
        checkpoint.save(state | own | ({"origin": self.origin} if self.origin else {}), self.last)
        self._whole = state["epoch"] if history is not None else None
        while len(self._kept) > keep - 1:
            self._remove(self._kept_file(self._kept.pop(0)))
        if history is not None:
            self._write_metrics(history)

    def _keep_last(self, epoch: int) -> None:
        """Keeps last.pt, which is about to be replaced, under the name of its epoch."""
        file = self._kept_file(epoch)
        remove_unfinished(file)
        write_atomically(file, lambda temporary: _link_or_copy(self.last, temporary))
        self._kept = [*(other for other in self._kept if other != epoch), epoch]

    def _remove(self, file: Path) -> None:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{file}: an older checkpoint cannot be removed ({reason(error)})") from error

    def _write_config(self) -> None:
        _write_changed(to_yaml(self.config), self._config_file)
        self._config_written = True

    def _write_metrics(self, history: list[dict[str, Any]]) -> None:
        _write_changed("".join(json.dumps(line) + "\n" for line in history), self._metrics_file)

    def write_events(self, epoch: int, values: dict[str, float]) -> None:
        """Adds an epoch's numbers to the TensorBoard events; raises UserError when they cannot be written."""
        self._fill_events()
        self._events.write(epoch, values)

    def _fill_events(self) -> None:
        history, self._unfilled = self._unfilled, []
        if history:
            self._events.refill(history)

    def close(self) -> None:
        """Lets other processes write to the folder."""
        if self._lock is not None:
            self._lock.close()


def _write_changed(text: str, file: Path) -> None:
    """Writes a text file, unless it holds that already."""
    with suppress(OSError):  # then writing says why
        if file.read_bytes() == text.encode():
            return
    write_text(text, file)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system has links
        shutil.copyfile(source, target)
