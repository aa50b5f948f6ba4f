"""The folder of a training run: config.yaml, metrics.jsonl, last.pt and best.pt."""

import json
import os
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from divdet.engine import checkpoint
from divdet.engine.checkpoint import Checkpoint
from divdet.engine.cli import to_yaml
from divdet.engine.distributed import is_main_process
from divdet.engine.errors import UserError
from divdet.engine.files import make_folder, reason, remove_unfinished, write_atomically, write_text
from divdet.engine.locking import LOCK, lock_folder
from divdet.engine.resuming import compare
from divdet.engine.schedule import with_min_steps
from divdet.engine.words import counted


def run_path(config: Any, kind: str) -> Path:
    """The folder that a run's settings name."""
    return Path(config.output or f"runs/{kind}")


class RunFolder:
    """The folder of a run, new or resumed.

    Args:
        config: the recipe, with fields ``output`` and ``resume``: None starts a new run, ``auto`` continues the run in
            ``output`` if there is one, anything else names a checkpoint to continue from.
        kind: ``classification`` or ``detection``.
        meta: what the run's checkpoints hold beside the weights (see ``divdet.engine.task.Task``).
        data: fingerprints of the ``training`` and the ``validation`` data; only the main process needs them.
        steps: of an epoch, by which ``train.min_steps`` raises the epochs; 0 leaves them.

    Attributes:
        config: the recipe, its epochs raised (see ``divdet.engine.schedule.with_min_steps``).
        resumed: the checkpoint that the run continues from; None for a new run.
        same_evaluation: whether evaluations measure what they measured before the run was resumed.

    Raises:
        UserError: where a new run would overwrite an old one, ``resume`` names no usable checkpoint, or another process
            writes to the folder.
    """

    def __init__(
        self, config: Any, kind: str, meta: dict[str, Any], data: dict[str, str] | None = None, steps: int = 0
    ) -> None:
        self.config, self.kind, self.data = config, kind, data or {}
        self.path = run_path(config, kind)
        self.last, self.best = self.path / "last.pt", self.path / "best.pt"
        self._metrics_file, self._config_file = self.path / "metrics.jsonl", self.path / "config.yaml"
        self._config_written = False
        self._lock: BinaryIO | None = None
        if os.path.exists(self.path / LOCK) or (config.resume and os.path.exists(self.last)):
            self._take_lock()
        self.same_evaluation = True
        self.resumed = saved = self._find_checkpoint()
        self._complete: int | None = None  # the epoch at whose end last.pt was written; None inside an epoch
        self._kept: list[int] = []  # epochs of this run's older checkpoints
        self._origin: str | None = None
        if steps:
            self.config = config = replace(config, train=with_min_steps(config.train, steps, saved))
        if saved:
            self.same_evaluation = compare(saved, config, meta, self.data)
            if self._holds_run():
                self._origin, self._kept = saved.run.origin, saved.run.kept
            else:
                self._origin = str(Path(config.resume).resolve())
            if self._holds_run() and Path(saved.source) != self.last:
                self._kept = [*self._kept, saved.epoch]
            elif self._holds_run() and not saved.run.batch:
                self._complete = saved.epoch

    def _take_lock(self) -> None:
        if self._lock is None and is_main_process():
            self._lock = lock_folder(self.path)

    def _holds_run(self) -> bool:
        return os.path.exists(self.last) or bool(self._kept_files())  # os.path: False also for names that are too long

    def _kept_files(self) -> list[Path]:
        """The checkpoints of earlier epochs, newest first."""
        try:
            names = [name for name in os.listdir(self.path) if re.fullmatch(r"epoch_\d{4,18}\.pt", name)]
        except OSError:
            return []
        return [self.path / name for name in sorted(names, key=lambda name: int(name[6:-3]), reverse=True)]

    def _kept_file(self, epoch: int) -> Path:
        return self.path / f"epoch_{epoch:04d}.pt"

    def _find_checkpoint(self) -> Checkpoint | None:
        resume, holds_run = self.config.resume, self._holds_run()
        if resume is None and holds_run:
            raise UserError(f"{self.path} already holds a run: add --resume auto, or choose another --output")
        if resume is None or (resume == "auto" and not holds_run):
            return None
        file = self.last if resume == "auto" else Path(resume)
        if holds_run and file.resolve() != self.last.resolve():
            # A run that began with this file may be started again with the same arguments, as torchrun does.
            run = checkpoint.load(self.last, self.kind).run if self.last.exists() else None
            if not run or run.origin != str(file.resolve()):
                raise UserError(f"{self.path} already holds a run: choose another --output to continue from {file}")
        if holds_run:
            file = self.last
        try:
            return self._load(file)
        except UserError as error:
            if resume != "auto":
                raise
            for kept in self._kept_files():
                try:
                    found = self._load(kept)
                except UserError as another:
                    print(another)
                    continue
                print(f"{error}; going on from {kept.name}, the newest intact checkpoint")
                return found
            raise

    def _load(self, file: Path) -> Checkpoint:
        found = checkpoint.load(file, self.kind)
        if found.run is None:
            raise UserError(f"{file}: holds no optimizer state, so no run can continue from it; use a last.pt")
        return found

    def begin(self, history: list[dict[str, Any]], *, trains: bool = True) -> None:
        """Creates the folder, which a refused recipe does not leave behind, and its config.yaml.

        In the folder of a killed run it also adds the epochs that metrics.jsonl lacks. If nothing is left to train,
        nothing else changes.

        Args:
            history: the lines of metrics.jsonl so far.
            trains: whether there are epochs left to train.

        Raises:
            UserError: where the folder cannot be written, another run has begun there, or nothing is left to train for
                a folder that has no run.
        """
        if not trains and self._origin and not self._holds_run():
            raise UserError(
                f"{self.config.resume}: the run already has {counted(len(history), 'epoch')}, and {self.path} would "
                "stay empty: raise train.epochs, or train.patience where it has ended the run"
            )
        make_folder(self.path)
        self._take_lock()
        if self.resumed is None and self._holds_run():
            raise UserError(f"{self.path} already holds a run: add --resume auto, or choose another --output")
        remove_unfinished(self._config_file, self._metrics_file, self.last, self.best)
        if trains and (self.resumed is None or not self._config_file.exists()):
            self._write_config()
        if self._origin and not self.last.exists():  # from here on this folder can be resumed itself
            run = replace(self.resumed.run, origin=self._origin, kept=[])
            checkpoint.save(replace(self.resumed, run=run), self.last)
        if history:
            self._write_metrics(history)

    def write(self, saved: Checkpoint, best: bool = False, keep: int = 1) -> None:
        """Writes last.pt, and at the end of an epoch metrics.jsonl and best.pt.

        metrics.jsonl is written whole from the history that last.pt also holds, so a kill between two writes leaves no
        line doubled or missing in the resumed run. best.pt comes before last.pt: a kill between them repeats the
        evaluation and writes the same best.pt again.

        Args:
            saved: the checkpoint; an epoch has ended if no batch of the next is done.
            best: whether it is also best.pt.
            keep: checkpoints to keep, last.pt among them.
        """
        if best:
            checkpoint.save(replace(saved, run=None), self.best)
        if not self._config_written:  # a resumed run's changes are written with its first checkpoint
            self._write_config()
        if keep > 1 and self._complete is not None:
            self._keep_last(self._complete)
        run = replace(saved.run, data=self.data, kept=self._kept, origin=self._origin)
        checkpoint.save(replace(saved, run=run), self.last)
        self._complete = None if run.batch else saved.epoch
        while len(self._kept) > keep - 1:
            file = self._kept_file(self._kept.pop(0))
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(f"{file}: an older checkpoint cannot be removed ({reason(error)})") from error
        if not run.batch:
            self._write_metrics(saved.history)

    def _keep_last(self, epoch: int) -> None:
        """Keeps last.pt, which is about to be replaced, under the name of its epoch."""
        file = self._kept_file(epoch)
        remove_unfinished(file)
        write_atomically(file, lambda temporary: _link_or_copy(self.last, temporary))
        self._kept = [*(other for other in self._kept if other != epoch), epoch]

    def _write_config(self) -> None:
        write_changed(to_yaml(self.config), self._config_file)
        self._config_written = True

    def _write_metrics(self, history: list[dict[str, Any]]) -> None:
        write_changed("".join(json.dumps(line) + "\n" for line in history), self._metrics_file)

    def close(self) -> None:
        """Releases the folder's lock."""
        if self._lock is not None:
            self._lock.close()


def write_changed(text: str, path: Path) -> None:
    """Writes UTF-8 text atomically, unless the file holds that text already."""
    with suppress(OSError):  # the write below reports it
        if path.read_bytes() == text.encode():
            return
    write_text(text, path)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system has links
        shutil.copyfile(source, target)
