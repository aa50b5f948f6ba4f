"""The training loop of classification and detection, in one process or many."""

import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from itertools import islice
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from divdet.engine import batch_norm, freezing
from divdet.engine.best import Best
from divdet.engine.callbacks import Callback, Callbacks, Run, Step
from divdet.engine.checkpoint import Checkpoint, RunState, check_weights, load_weights
from divdet.engine.cli import to_dict
from divdet.engine.data_parallel import data_parallel, share_buffers, sum_gradients
from divdet.engine.devices import autocast, check_compiler, precision_dtype, tuned_convolutions
from divdet.engine.distributed import World, shared_parameters
from divdet.engine.errors import UserError
from divdet.engine.faults import explained
from divdet.engine.loading import Loader
from divdet.engine.loggers import build_loggers
from divdet.engine.loss_report import LossReports, Report
from divdet.engine.memory import free_memory, within_memory
from divdet.engine.optimization import build_optimizer, build_scaler, clip_gradient, learning_rate
from divdet.engine.progress import progress
from divdet.engine.run_folder import RunFolder
from divdet.engine.sampling import EpochSampler, derived_seed, epoch_length
from divdet.engine.schedule import Clock, schedule_notes
from divdet.engine.settings import TrainSettings
from divdet.engine.state import ModelEMA, gather_entries, load_optimizer, local_entries, not_finite, optimizer_state
from divdet.engine.stopping import Stopped, Stopping, stop_on_signals
from divdet.engine.task import Task
from divdet.engine.words import counted

_ESTIMATED = 50  # batches that statistics are estimated on


def training_loader(
    dataset: Any,
    settings: TrainSettings,
    seed: int,
    device: torch.device,
    world: World,
    repeats: Sequence[float] | None = None,
    **options: Any,
) -> Loader:
    """A loader of full, shuffled batches; ``dataset`` is indexed by ``EpochSampler``'s keys, ``repeats`` as there."""
    step, images = settings.batch_size * settings.accumulate * world.replicas, epoch_length(len(dataset), repeats)
    if step > images:
        print(f"note: a step takes {step} images, and an epoch has {images}: each is repeated, in other views")
    shape = (settings.batch_size, seed, settings.accumulate, world.replica, world.replicas)
    options |= {"sampler": EpochSampler(len(dataset), *shape, repeats), "persistent_workers": settings.workers > 0}
    return Loader(dataset, settings.batch_size, settings.workers, device, **options)


def fit(
    task: Task,
    loader: Loader,
    folder: RunFolder,
    device: torch.device,
    world: World,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Trains ``task.model`` by the folder's recipe, evaluating and saving after each epoch.

    The random numbers of a step depend on (seed, step) alone, so resuming needs no generator's state. ``callbacks``
    are called after the recipe's loggers.

    Returns:
        The last epoch's metrics; empty where a callback ends the run in its first epoch.

    Raises:
        UserError: where the loss is not finite, or memory or disk run out; the last checkpoint is kept.
        Stopped: after SIGINT or SIGTERM, when the current step is done and saved.
    """
    settings: TrainSettings = folder.config.train
    for note in schedule_notes(settings):
        print(note)
    kept = f"{folder.last} holds the last checkpoint, if one was written"
    faults = explained(settings.batch_size, settings.workers, kept)
    with stop_on_signals() as stopping, faults, closing(folder), loader, tuned_convolutions(device):
        loggers = build_loggers(settings.loggers, settings.log_every)
        training = _Training(task, loader, folder, device, world, [*loggers, *callbacks])
        if training.is_done():
            early = training.stopped_early()
            more = f"raise train.{'patience' if early else 'epochs'} to go on"
            print(f"the run already has {counted(training.epoch, 'epoch')}{early}: nothing to do; {more}")
            for logger in loggers if world.is_main_process and folder.last.exists() else ():
                logger.complete(training.run)
        else:
            steps, epochs = training.steps, settings.epochs
            print(f"{counted(epochs, 'epoch')} of {counted(steps, 'step')}: {counted(epochs * steps, 'step')}")
            with training.callbacks.around_training():
                training.train(stopping)
    return training.history[-1] if training.history else {}


class _Training:
    """The state of a run.

    Attributes:
        epoch: epochs done, evaluation included.
        batch: batches done of the current epoch.
        totals: sums of the losses over those batches.
        history: a line of metrics.jsonl for each epoch done.
        ended: why a callback ended the run, as all processes know it; empty before.
        first: no batch has been computed yet by this process.
    """

    def __init__(
        self,
        task: Task,
        loader: Loader,
        folder: RunFolder,
        device: torch.device,
        world: World,
        callbacks: Sequence[Callback],
    ) -> None:
        self.task, self.loader, self.folder, self.device, self.world = task, loader, folder, device, world
        self.settings = settings = folder.config.train
        self.sampler: EpochSampler = loader.sampler
        self.batches = self.sampler.batches  # of an epoch
        self.steps = self.batches // settings.accumulate  # of an epoch
        self.clock = Clock()
        # The layout of cuDNN and oneDNN: several times faster in mixed precision.
        self.model = task.model.to(memory_format=torch.channels_last)
        batch_norm.prepare(self.model, settings.batch_norm, world)
        self.dtype = precision_dtype(settings.precision, device, training=True)
        scaled = self.dtype is torch.float16
        self.optimizer = build_optimizer(self.model, settings, task.weight_decay, scaled, task.lr_factors)
        self.scaler = build_scaler(device, scaled, world)
        self.epoch = self.batch = 0
        self.first = True
        self.totals: dict[str, float] = {}
        self.history: list[dict[str, Any]] = []
        self.reports = LossReports(world, device)
        self.best = Best(task.best_metric, settings.patience)
        if settings.patience and task.best_metric is None:
            print("note: train.patience does nothing, since no evaluation can be better than another")
        if folder.resumed:
            self._resume(folder.resumed, folder.resumed.run)
        else:
            if bad := not_finite(self.model.state_dict()):
                raise UserError(
                    f"model.pretrained or model.divide_from: not all numbers of {bad[0]} are finite; use another file"
                )
            if task.sliced:
                self._estimate_statistics()
            self.average = ModelEMA(self.model, settings.ema_decay)
        places = world.all_gather_objects((self.epoch, self.batch, self.average.steps, self.sampler.layout))
        if any(place != places[0] for place in places):
            raise UserError(
                f"{folder.path}: the processes found different checkpoints or data: all nodes must see the same folders"
            )
        self.replica = data_parallel(self.model, world)
        if settings.compile:
            check_compiler("train.compile")
        # self.model stays unwrapped: it keeps its keys and evaluates as it is.
        task.network = torch.compile(self.replica) if settings.compile else self.replica
        self.ended = ""
        self.run = Run(folder.path, to_dict(folder.config), self.model, self.history, settings.epochs, self.steps)
        self.callbacks = Callbacks(callbacks if world.is_main_process else (), self.run)
        if world.is_main_process:
            folder.begin(self.history, trains=not self.is_done())

    def _resume(self, saved: Checkpoint, run: RunState) -> None:
        source = f"the checkpoint of {self.folder.path}"
        weights = local_entries(saved.model, self.model)
        check_weights(self.model.state_dict(), weights, source)
        load_weights(self.model, local_entries(run.trained, self.model) or weights, source)
        self.average = ModelEMA(self.model, self.settings.ema_decay)
        if self.settings.ema_decay and run.average_steps:
            self.average.load(weights, run.average_steps)
        load_optimizer(self.optimizer, self.model, run.optimizer, source)
        if run.scaler:  # empty where the run so far had no fp16
            self.scaler.load_state_dict(run.scaler)
        self.epoch, self.history = saved.epoch, list(saved.history)
        self.batch = self.sampler.batch_after(run.batch, run.layout)
        if run.batch and run.layout != self.sampler.layout:
            print(
                f"  a step has other images than before: the epoch goes on after batch {self.batch} of {self.batches}"
            )
        self.totals = {name: total * (self.batch / max(run.batch, 1)) for name, total in run.totals.items()}
        # Only this folder's best counts, measured as now: the history may come from another run or other data.
        # The main process decides, since it alone compares the data: all must stop early, or none.
        best_exists, same = self.world.broadcast_from_main(
            lambda: (self.folder.best.exists(), self.folder.same_evaluation)
        )
        if best_exists and same:
            self.best.value, self.best.waited = run.best, run.waited
        if best_exists and not same and self.epoch < self.settings.epochs:
            print("  best.pt starts anew: the data or settings of the evaluation have changed")

    def stopped_early(self) -> str:
        """Why training ends before its last epoch, in words; empty where it does not."""
        reason = self.best.no_better() if self.epoch < self.settings.epochs else ""
        return f" of {self.settings.epochs}: {reason}" if reason else ""

    def is_done(self) -> bool:
        """Whether there is nothing left to train."""
        return self.epoch >= self.settings.epochs or bool(self.stopped_early())

    def train(self, stopping: Stopping) -> None:
        """Trains until nothing is left, or a callback ends the run."""
        while not self.is_done() and not self.ended:
            self.train_epoch(stopping)
            if self.batch >= self.batches:
                self.finish_epoch(stopping)
        if self.stopped_early():
            print(f"stopped after epoch {self.epoch}{self.stopped_early()}; {self.folder.best} holds the best")
        elif self.ended and not self.is_done():
            print(self._left(self.ended))

    def train_epoch(self, stopping: Stopping) -> None:
        """Trains the rest of the current epoch, or until a callback ends the run."""
        began, settings = time.perf_counter(), self.settings
        self.sampler.epoch, self.sampler.start = self.epoch, self.batch
        self.model.train()
        freezing.keep_statistics(self.model)
        batch_norm.freeze(self.model, settings.batch_norm)
        title = f"epoch {self.epoch + 1}/{settings.epochs}"
        bar = progress(self.loader, title, unit="batch", total=self.batches, initial=self.batch)
        collected: list[dict[str, Tensor]] = []
        self.clock.start()
        for batch in bar if self.batch < self.batches else ():
            if not collected:
                self.optimizer.zero_grad(set_to_none=True)
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate(settings, *self._span(self.batch)) * group["lr_factor"]
            collected.append(self._backward(batch, len(collected) + 1 == settings.accumulate))
            self.batch += 1
            if len(collected) < settings.accumulate:
                continue
            self.reports.add(collected, self.batch, stopping.signal or bool(self.run.stop_reason))
            collected = []
            signal = self._read_reports(stopping)
            self._step()
            step = self.batch // settings.accumulate
            due = settings.save_every and step % settings.save_every == 0
            if signal or due or self.ended or self.batch == self.batches:  # only finite losses are saved
                signal = self._read_reports(stopping, all_of_them=True) or signal
            if signal or due or self.ended:
                self._save()
            self.callbacks.steps()
            if signal:
                self._stop(signal)
            if self.ended:
                break
            self.clock.step()
            left = settings.epochs * self.steps - self.epoch * self.steps - step
            if estimate := self.clock.first_estimate(left):
                bar.write(estimate)
            if self.totals:
                done = self.batch - len(self.reports.unread) * settings.accumulate
                bar.set_postfix_str(f"loss {self.totals['loss'] / done:.3f}{self.clock.left(left)}")
        self.run.seconds = time.perf_counter() - began

    def _stop(self, number: int) -> NoReturn:
        self.world.broadcast_from_main(lambda: None)  # waits until the main process has written
        raise Stopped(number, self._left())

    def _left(self, why: str = "") -> str:
        """Says where the run has ended before its last epoch, and how to go on."""
        batches = f" and {self.batch} of {self.batches} batches" if self.batch else ""
        where = f"after {counted(self.epoch, 'epoch')}{batches}"
        why = f" ({why})" if why else ""
        return f"stopped {where}{why}; {self.folder.last} holds it: continue with --resume auto"

    def _span(self, batch: int) -> tuple[float, float]:
        """Beginning and end of a batch's step, in epochs."""
        first = batch - batch % self.settings.accumulate
        return self.epoch + first / self.batches, self.epoch + (first + self.settings.accumulate) / self.batches

    def _estimate_statistics(self) -> None:
        batches = progress(islice(self.loader, _ESTIMATED), "statistics", "batch", min(_ESTIMATED, self.batches))

        def forward(numbered: tuple[int, Any]) -> None:
            self._seed(numbered[0])
            self.task.losses(numbered[1], 0.0)

        batch_norm.estimate(self.model, enumerate(batches), forward)

    def _seed(self, batch: int) -> None:
        torch.manual_seed(derived_seed(self.folder.config.seed, "step", self.epoch * self.batches + batch))

    def _backward(self, batch: Any, last: bool) -> dict[str, Tensor]:
        """Adds a batch's gradients; DDP averages them over the replicas at the ``last`` batch of a step."""
        self._seed(self.batch)
        replica = self.replica
        alone = replica.no_sync() if isinstance(replica, DistributedDataParallel) and not last else nullcontext()
        first, self.first = self.first and self.device.type == "cpu" and not self.settings.compile, False
        # Gathered: no process takes memory before all have seen what is free.
        enough = within_memory(min(self.world.all_gather_objects(free_memory()))) if first else nullcontext()
        with alone:
            with autocast(self.dtype, self.device), enough:
                losses = self.task.losses(batch, self._span(self.batch)[1])
            self.scaler.scale(losses["loss"] / self.settings.accumulate).backward()
        return {name: value.detach() for name, value in losses.items()}

    def _read_reports(self, stopping: Stopping, all_of_them: bool = False) -> int:
        """Adds due reports, averaged over the processes, to the totals; returns a signal of any process, or 0."""
        stop = False
        for report in self.reports.due(all_of_them):
            values, bad, signalled = report.wait()
            if bad:
                self._refuse(bad[0], report)
            for name, value in values.items():
                self.totals[name] = self.totals.get(name, 0.0) + value / self.world.size
            self.callbacks.read.append(self._step_of(report, values))
            stop |= signalled
        return self._agree(stopping) if stop else 0

    def _agree(self, stopping: Stopping) -> int:
        """Returns a signal of any process, or 0; tells all why a callback of the first one ends the run."""
        asked = self.world.all_gather_objects((stopping.signal, self.run.stop_reason))
        self.ended = asked[0][1]
        return max(signal for signal, _ in asked)

    def _step_of(self, report: Report, sums: dict[str, float]) -> Step:
        losses = {name: value / self.world.size / self.settings.accumulate for name, value in sums.items()}
        rate = learning_rate(self.settings, *self._span(report.batches - 1))
        number = self.epoch * self.steps + report.batches // self.settings.accumulate
        return Step(number, self.epoch + 1, losses, rate)

    def _refuse(self, name: str, report: Report) -> None:
        images: list[str] = []
        for row in (~torch.isfinite(report.losses).all(1)).nonzero().flatten().tolist():
            batch = report.batches - len(report.losses) + row
            images += map(self.task.name, self.sampler.images(batch))
        images = sorted({image for part in self.world.all_gather_objects(images) for image in part})
        shown = ", ".join(images[:8]) + (f" and {len(images) - 8} more" if len(images) > 8 else "")
        raise UserError(
            f"the {name} is not finite at epoch {self.epoch + 1}, batch {report.batches}: lower train.lr or check the "
            f"data; {self._kept()}; the batch's images: {shown}"
        )

    def _kept(self) -> str:
        exists = self.folder.last.exists()
        return f"{self.folder.last} holds the last checkpoint" if exists else "there is no checkpoint yet"

    def _step(self) -> None:
        if self.world.member_group is not None:
            sum_gradients(shared_parameters(self.model), self.world.member_group)
        if self.settings.clip_gradient:
            self.scaler.unscale_(self.optimizer)
            clip_gradient(self.model, self.settings.clip_gradient, self.world)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update()

    def finish_epoch(self, stopping: Stopping) -> None:
        """Evaluates, saves and logs the current epoch."""
        settings, metric = self.settings, self.task.best_metric
        evaluated = (self.epoch + 1) % settings.evaluate_every == 0 or self.epoch + 1 == settings.epochs
        if evaluated and self.batch:
            self._save()  # a kill during the evaluation must not cost the epoch
        rate = learning_rate(settings, *self._span(self.batches - 1))  # of the epoch's last step
        line: dict[str, Any] = {"epoch": self.epoch + 1, "lr": rate}
        line |= {f"train_{name}": total / self.batches for name, total in self.totals.items()}
        with self.average.applied():
            share_buffers(self.model, self.world)
            if evaluated:
                line |= {k: v for k, v in self.task.evaluate().items() if isinstance(v, int | float)}
        best = self.best.take(line)
        self.history.append(line)
        self.epoch, self.batch, self.totals = self.epoch + 1, 0, {}
        self._save(best)
        print(_describe(line, metric, self.run.seconds), flush=True)
        self.callbacks.epoch(line)
        self.world.await_all()  # the first process, which alone has callbacks, may take long
        signal = self._agree(stopping)
        if signal and self.epoch < settings.epochs:
            self._stop(signal)

    def _save(self, best: bool = False) -> None:
        """Writes the run as it stands."""
        weights = gather_entries(self.model.state_dict(), self.world)
        average = gather_entries(self.average.values, self.world)
        held = gather_entries(optimizer_state(self.optimizer, self.model), self.world)
        if not self.world.is_main_process:
            return
        bad = [name for part in (weights, average, held) for name in not_finite(part)]
        if bad:  # every resumed run would start with it
            raise UserError(
                f"{bad[0]} is not finite after epoch {self.epoch + 1}, batch {self.batch}: lower train.lr, or set "
                f"train.clip_gradient; {self._kept()}"
            )
        run = RunState(
            batch=self.batch,
            layout=self.sampler.layout,
            totals=self.totals,
            trained=weights if average else {},
            average_steps=self.average.steps,
            optimizer=held,
            scaler=self.scaler.state_dict(),
            best=self.best.value,
            waited=self.best.waited,
        )
        folder = self.folder
        config, meta = to_dict(folder.config), self.task.meta
        saved = Checkpoint(folder.kind, average or weights, config, meta, self.epoch, self.history, run)
        folder.write(saved, best, self.settings.keep)


def _describe(line: dict[str, Any], metric: str | None, seconds: float) -> str:
    text = f"epoch {line['epoch']:>3}  lr {line['lr']:.2e}  loss {line['train_loss']:.4f}"
    if metric in line:
        text += f"  {metric} {line[metric]:.4g}"
    return f"{text}  {seconds:.1f} s"
