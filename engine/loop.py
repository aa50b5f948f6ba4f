"""The training loop that classification and detection share."""

import math
import time
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from engine import checkpoint
from engine.cli import to_dict
from engine.devices import autocast, precision_dtype
from engine.errors import UserError
from engine.memory import keep_freed_memory
from engine.optimization import TrainSettings, build_optimizer, learning_rate
from engine.progress import progress
from engine.run_folder import RunFolder
from engine.sampling import EpochSampler, derived_seed

_HYPERPARAMETERS = ("weight_decay", "momentum", "nesterov")


class Task(Protocol):
    """What a subject gives the loop.

    Attributes:
        model: the network, on its device.
        best_metric: the number of ``evaluate()`` that chooses best.pt, higher being better.
        meta: plain values that a checkpoint needs beside the weights (class names, …).
        weight_decay: the decay after dividing (Eq. 6).
    """

    model: nn.Module
    best_metric: str
    meta: dict[str, Any]
    weight_decay: float

    def losses(self, batch: Any, epoch: float) -> Mapping[str, Tensor]:
        """The losses of a batch, under autocast; ``loss`` is the one that is differentiated."""
        ...

    def evaluate(self) -> dict[str, Any]:
        """The metrics of the evaluation data; numbers only are logged."""
        ...


def training_loader(
    dataset: Any, settings: TrainSettings, seed: int, device: torch.device, **options: Any
) -> DataLoader:
    """A loader of full, shuffled batches; ``dataset[(epoch, index)]`` gives an image (see ``EpochSampler``)."""
    return DataLoader(
        dataset,
        batch_size=settings.batch_size,
        sampler=EpochSampler(len(dataset), settings.batch_size, seed),
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
        pin_memory=device.type == "cuda",
        **options,
    )


def fit(
    task: Task, loader: DataLoader, settings: TrainSettings, folder: RunFolder, device: torch.device
) -> dict[str, Any]:
    """Trains ``task.model``, evaluating and saving after each epoch; returns the last epoch's metrics.

    The random numbers of a step come from (seed, step) alone, so resuming needs no generator's state.

    Raises:
        UserError: when the loss is not finite; the last epoch's checkpoint stays as it was.
    """
    if device.type == "cpu":
        keep_freed_memory()
    # Several times faster in mixed precision: the convolutions' own layout.
    model = task.model.to(memory_format=torch.channels_last)
    parameters = list(model.parameters())
    optimizer = build_optimizer(model, settings, task.weight_decay)
    dtype = precision_dtype(settings.precision, device, training=True)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    history: list[dict[str, Any]] = []
    if folder.resumed:
        checkpoint.load_weights(model, folder.resumed["model"], f"the checkpoint of {folder.path}")
        own = [{key: group[key] for key in _HYPERPARAMETERS} for group in optimizer.param_groups]
        optimizer.load_state_dict(folder.resumed["optimizer"])
        for group, values in zip(optimizer.param_groups, own, strict=True):
            group.update(values)  # this run's settings, where they differ from the checkpoint's
        if folder.resumed["scaler"]:  # empty where the run so far had no fp16
            scaler.load_state_dict(folder.resumed["scaler"])
        history = list(folder.resumed["history"])
    folder.begin(history)
    if settings.warmup_epochs >= settings.epochs:
        print(f"note: train.warmup_epochs {settings.warmup_epochs:g} is not below train.epochs: no cosine follows")
    start, seed = len(history), folder.config.seed
    best_score = -math.inf
    if folder.resumed and folder.best.exists():  # the folder's own: ``history`` may be of a run that this one continues
        best_score = checkpoint.load(folder.best, folder.kind)["history"][-1][task.best_metric]
    if start >= settings.epochs:
        print(f"{folder.last} already has {start} epochs: nothing to do")

    for epoch in range(start, settings.epochs):
        began, totals = time.perf_counter(), {}
        loader.sampler.epoch = epoch
        model.train()
        bar = progress(loader, f"epoch {epoch + 1}/{settings.epochs}", unit="batch")
        for step, batch in enumerate(bar):
            exact_epoch = epoch + step / len(loader)
            rate = learning_rate(settings, exact_epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(derived_seed(seed, "step", epoch * len(loader) + step))
            with autocast(dtype, device):
                losses = task.losses(batch, exact_epoch)
            _check_finite(losses, epoch, step, folder)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(losses["loss"]).backward()
            if settings.clip_gradient:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(parameters, settings.clip_gradient)
            scaler.step(optimizer)
            scaler.update()
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value.item()
            bar.set_postfix_str(f"loss {totals['loss'] / (step + 1):.3f}")
        seconds = time.perf_counter() - began

        line = {"epoch": epoch + 1, "lr": rate}
        line |= {f"train_{name}": total / len(loader) for name, total in totals.items()}
        if (epoch + 1) % settings.evaluate_every == 0 or epoch + 1 == settings.epochs:
            line |= {key: value for key, value in task.evaluate().items() if isinstance(value, int | float)}
        best = line.get(task.best_metric, -math.inf) > best_score
        if best:
            best_score = line[task.best_metric]
        history.append(line)
        state = {
            "kind": folder.kind,
            "epoch": epoch + 1,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
            "history": history,
            "config": to_dict(folder.config),
            "meta": task.meta,
        }
        folder.write_epoch(state, history, best=best)
        folder.write_events(epoch + 1, {k: v for k, v in line.items() if k != "epoch"} | {"seconds": seconds})
        print(_describe(line, task.best_metric, seconds), flush=True)
    folder.close()
    return history[-1]


def _check_finite(losses: Mapping[str, Tensor], epoch: int, step: int, folder: RunFolder) -> None:
    bad = [name for name, value in losses.items() if not torch.isfinite(value).all()]
    if bad:
        raise UserError(
            f"the {bad[0]} is not finite at epoch {epoch + 1}, step {step + 1}: lower train.lr or check the data; "
            f"{folder.path} holds " + (f"what epoch {epoch} left" if epoch else "no checkpoint yet")
        )


def _describe(line: dict[str, Any], metric: str, seconds: float) -> str:
    text = f"epoch {line['epoch']:>3}  lr {line['lr']:.2e}  loss {line['train_loss']:.4f}"
    if metric in line:
        text += f"  {metric} {line[metric]:.4g}"
    return f"{text}  {seconds:.1f} s"
