"""The optimizer and the learning rate of every step."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import SGD

from divdet.engine.batch_norm import BatchNorm
from divdet.engine.devices import Precision
from divdet.engine.distributed import World, shared_parameters
from divdet.engine.errors import UserError


@dataclass
class TrainSettings:
    """How a network is trained.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per batch of a process.
        accumulate: batches whose gradients are averaged before a step.
        lr: peak learning rate, taken as it is however many processes share a step; the usual rule is in proportion to
            a step's images, batch_size x accumulate x data-parallel processes.
        end_lr: rate that ``cosine`` ends at.
        momentum: of SGD.
        nesterov: Nesterov's momentum.
        weight_decay: of weights; biases and normalisation layers stay undecayed unless ``decay_all``.
        decay_all: also decay biases and normalisation layers, as the released SSD recipe does.
        schedule: ``cosine`` or ``step`` (÷10 at each of ``milestones``), after the warm-up.
        milestones: epochs at which ``step`` divides the rate by 10.
        warmup_epochs: epochs of linear warm-up from ``warmup_lr``; may be a fraction. The last of its steps has lr; the
            first of n is an n-th of the way, so from 0 it has lr / n.
        warmup_lr: rate that the warm-up starts from.
        clip_gradient: largest norm of the gradient; 0 does not clip.
        batch_norm: statistics in training: own (each process's batch), sync (the batches of all processes), frozen
            (the running statistics, which stay as they are).
        ema_decay: decay of the moving average of the weights, which is evaluated and saved; 0 averages nothing.
        member_parallel: under torchrun, each process has one member.
        compile: train the network as torch.compile makes it: faster on a GPU, after a start of minutes; evaluation and
            checkpoints are the plain network's.
        precision: auto, float32, bf16 or fp16 (mixed precision by autocast); auto is the best that the device
            multiplies in hardware.
        save_every: steps between checkpoints inside an epoch; 0 saves at the end of epochs only.
        keep: number of checkpoints to keep: last.pt, and those of the keep - 1 epochs before it as epoch_0012.pt, ….
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        workers: processes that load data; 0 loads in the training process.
    """

    epochs: int = 300
    batch_size: int = 128
    accumulate: int = 1
    lr: float = 0.1
    end_lr: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    decay_all: bool = False
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: list[int] = field(default_factory=list)
    warmup_epochs: float = 0.0
    warmup_lr: float = 0.0
    clip_gradient: float = 0.0
    batch_norm: BatchNorm = "own"
    ema_decay: float = 0.0
    member_parallel: bool = False
    compile: bool = False
    precision: Precision = "auto"
    save_every: int = 0
    keep: int = 1
    evaluate_every: int = 1
    workers: int = 2

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "keep", "evaluate_every"):
            if getattr(self, name) < 1:
                raise UserError(f"train.{name} is {getattr(self, name)}: it must be at least 1")
        check_not_negative(
            *(self, "lr", "end_lr", "momentum", "weight_decay", "warmup_epochs", "warmup_lr"),
            *("clip_gradient", "ema_decay", "save_every", "workers"),
        )
        for name, used in (("end_lr", self.schedule == "cosine"), ("warmup_lr", self.warmup_epochs > 0)):
            if used and getattr(self, name) > self.lr:
                raise UserError(f"train.{name} is {getattr(self, name)}, above train.lr {self.lr}: lower it, or set 0")
        if self.workers > 1024:
            raise UserError(f"train.workers is {self.workers}: it must be at most 1024")
        for name in ("momentum", "ema_decay"):
            if getattr(self, name) >= 1:
                raise UserError(f"train.{name} is {getattr(self, name)}: it must be below 1")
        if any(epoch < 1 for epoch in self.milestones):
            raise UserError(f"train.milestones is {self.milestones}: its epochs must be at least 1")
        if self.schedule == "step" and not self.milestones:
            raise UserError("train.milestones is empty: train.schedule step needs the epochs that divide the rate")
        if self.schedule != "step" and self.milestones:
            raise UserError(
                f"train.milestones is {self.milestones}, which train.schedule {self.schedule} does not use: "
                "set one to step, or the other to []"
            )


def check_not_negative(settings: TrainSettings, *names: str) -> None:
    """Raises UserError unless the settings of these names are finite and 0 or more."""
    for name in names:
        value = getattr(settings, name)
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"train.{name} is {value}: it must be a finite number, 0 or more")


def build_optimizer(model: nn.Module, settings: TrainSettings, weight_decay: float, scaled: bool = False) -> SGD:
    """SGD in two groups: decayed weights, and biases and normalisation parameters (all one-dimensional).

    It is PyTorch's fused one, unless the losses are ``scaled``: where a scaler skips the first step, the fused one
    keeps a momentum that nothing was written to.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1 or settings.decay_all]
    exempt = [p for p in parameters if p.ndim <= 1 and not settings.decay_all]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": exempt, "weight_decay": 0.0}]
    return SGD(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
        fused=not scaled,
    )


def build_scaler(device: torch.device, enabled: bool, world: World) -> torch.amp.GradScaler:
    """The scaler of fp16's losses; in several processes a step is skipped by all of them or by none."""
    if enabled and world.size > 1:
        from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler  # slow to import

        return ShardedGradScaler(device.type)
    return torch.amp.GradScaler(device.type, enabled=enabled)


def clip_gradient(model: nn.Module, limit: float, world: World) -> None:
    """Scales the whole network's gradient, of other processes' members too, to a norm of at most ``limit``."""
    if world.member_group is None:
        nn.utils.clip_grad_norm_(model.parameters(), limit)
        return
    shared = shared_parameters(model)
    others = {id(p) for p in shared}
    own = [p.grad for p in model.parameters() if p.grad is not None and id(p) not in others]
    squared = nn.utils.get_total_norm(own) ** 2
    dist.all_reduce(squared, group=world.member_group)
    if shared:
        squared += nn.utils.get_total_norm([p.grad for p in shared if p.grad is not None]) ** 2
    nn.utils.clip_grads_with_norm_(model.parameters(), limit, squared.sqrt())


def learning_rate(settings: TrainSettings, epoch: float, end: float | None = None) -> float:
    """The rate of a step that begins at ``epoch``, a fraction inside an epoch (paper, Sec. IV-A, taken step by step).

    Linear warm-up, then steps of ÷10 or ``end_lr + (lr − end_lr) · 0.5 · (1 + cos(π · (epoch − warm-up) / (epochs −
    warm-up)))``. A step of the warm-up has the rate of its end, later steps that of their beginning, so no step has a
    rate of 0 or above ``lr``.

    Args:
        settings: the recipe.
        epoch: where the step begins.
        end: where the step ends; by default at ``epoch``, as in the paper's formula.
    """
    if epoch < settings.warmup_epochs:
        share = min((epoch if end is None else end) / settings.warmup_epochs, 1.0)
        return settings.lr * share + settings.warmup_lr * (1 - share)
    if settings.schedule == "step":
        return settings.lr * 0.1 ** sum(epoch >= step for step in settings.milestones)
    length = max(settings.epochs - settings.warmup_epochs, 1e-9)
    falling = 0.5 * (1 + math.cos(math.pi * (epoch - settings.warmup_epochs) / length))
    return settings.lr * falling + settings.end_lr * (1 - falling)
