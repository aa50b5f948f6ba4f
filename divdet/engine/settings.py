"""Settings that commands share. Nothing here imports torch: command lines are read before it is loaded."""

import math
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, get_args

from divdet.engine.errors import UserError

Precision = Literal["auto", "float32", "bf16", "fp16"]
Concurrency = Literal["sequential", "streams", "graph", "devices", "threads"]
BatchNorm = Literal["own", "sync", "frozen", "frozen_backbone"]
LoggerName = Literal["tensorboard", "csv", "wandb", "mlflow", "none"]


@dataclass(kw_only=True)
class CommonSettings:
    """What every command takes.

    Attributes:
        output: the folder to write; default: runs/<config name>.
        device: auto, cpu, cuda or cuda:N.
        seed: of everything that is drawn at random.
    """

    output: str | None = None
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("seed", self.seed, 0)


@dataclass
class TrainSettings:
    """How a network is trained.

    Attributes:
        epochs: passes over the training images.
        min_steps: raises the epochs until the run has at least so many optimizer steps; warm-ups, milestones and
            evaluate_every grow in proportion. --train.epochs on the command line sets it to 0.
        batch_size: images per batch of a process.
        accumulate: batches whose gradients are averaged before a step.
        lr: peak learning rate. It is not scaled: the usual rule is in proportion to the images of a step, batch_size x
            accumulate x data-parallel processes.
        end_lr: final rate of ``cosine``.
        optimizer: sgd, as in the paper, or adamw, whose betas are ``momentum`` and 0.999.
        momentum: of the optimizer.
        nesterov: use Nesterov's momentum (sgd).
        weight_decay: of weights; of biases and normalization layers only with ``decay_all``.
        decay_all: also decay biases and normalization layers, as the released SSD recipe does.
        schedule: ``cosine`` or ``step`` (÷10 at each of ``milestones``), after the warm-up.
        milestones: epochs at which ``step`` divides the rate by 10.
        warmup_epochs: epochs of linear warm-up from ``warmup_lr`` to lr; may be a fraction. Step k of n is k / n of the
            way, so the first one from 0 has lr / n.
        warmup_lr: rate that the warm-up starts from.
        clip_gradient: largest norm of the gradient; 0 does not clip.
        batch_norm: statistics in training: own (each process's batch), sync (the batches of all processes), frozen
            (the running statistics, not updated), frozen_backbone (the same in pretrained backbones alone: adapters,
            extra layers and heads are new, and normalize by each process's batch).
        ema_decay: decay of the moving average (EMA) of the weights, which is evaluated and saved; 0 turns it off.
        member_parallel: under torchrun, each process has one member.
        compile: train with torch.compile, faster on a GPU after minutes of compilation; checkpoints stay the same.
        precision: float32, bf16 or fp16 (mixed precision by autocast); auto: the fastest that the hardware supports.
        save_every: steps between checkpoints inside an epoch; 0 saves only at the end of an epoch.
        keep: number of checkpoints to keep: last.pt, and earlier epochs' as epoch_0012.pt, ….
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        patience: evaluations without a better one after which training stops early; 0 trains to the end.
        workers: processes that load data; 0 loads in the training process.
        loggers: where else the numbers of metrics.jsonl go: tensorboard, csv (metrics.csv), wandb, mlflow, several of
            them separated by commas, or none; see docs/logging.md.
        log_every: the loggers also take every step that is a multiple of this; 0: they take epochs alone.
    """

    epochs: int = 300
    min_steps: int = 0
    batch_size: int = 128
    accumulate: int = 1
    lr: float = 0.1
    end_lr: float = 0.0
    optimizer: Literal["sgd", "adamw"] = "sgd"
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
    patience: int = 0
    workers: int = 2
    loggers: list[LoggerName] = field(default_factory=lambda: ["tensorboard", "csv"])
    log_every: int = 50

    def __post_init__(self) -> None:
        for name in self.loggers:
            check_choice("train.loggers: a logger", name, LoggerName)
        for name in ("epochs", "batch_size", "accumulate", "keep", "evaluate_every"):
            check_range(f"train.{name}", getattr(self, name), 1)
        for name in ("lr", "end_lr", "weight_decay", "warmup_epochs", "warmup_lr", "clip_gradient"):
            check_range(f"train.{name}", getattr(self, name), 0)
        for name in ("min_steps", "save_every", "patience", "log_every"):
            check_range(f"train.{name}", getattr(self, name), 0)
        for name in ("momentum", "ema_decay"):
            check_range(f"train.{name}", getattr(self, name), 0, 1, below=True)
        check_range("train.workers", self.workers, 0, 1024)
        for name, used in (("end_lr", self.schedule == "cosine"), ("warmup_lr", self.warmup_epochs > 0)):
            if used and getattr(self, name) > self.lr:
                raise UserError(f"train.{name} is {getattr(self, name)}, above train.lr {self.lr}: lower it, or set 0")
        if any(epoch < 1 for epoch in self.milestones):
            raise UserError(f"train.milestones is {self.milestones}: its epochs must be at least 1")
        if self.schedule == "step" and not self.milestones:
            raise UserError("train.milestones is empty: train.schedule step needs the epochs that divide the rate")
        if self.schedule != "step" and self.milestones:
            raise UserError(
                f"train.milestones is {self.milestones}, which train.schedule {self.schedule} does not use: "
                "set one to step, or the other to []"
            )


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raises UserError, which names the field, for a value that is none of a ``Literal``'s."""
    if value not in get_args(choices):
        raise UserError(f"{name} is {value!r}: choose one of {', '.join(get_args(choices))}")


def check_range(name: str, value: float | None, least: float, most: float = math.inf, *, below: bool = False) -> None:
    """Raises UserError, naming the setting, unless ``value`` is None or a finite number from ``least`` to ``most``.

    ``below`` excludes ``most`` itself.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
        raise UserError(f"{name} is {value!r}: give a number")
    if value is None or (math.isfinite(value) and least <= value <= most and not (below and value == most)):
        return
    finite = "" if math.isfinite(value) or most < math.inf else "finite and "
    upper = "" if most == math.inf else f" and {'below' if below else 'at most'} {most}"
    raise UserError(f"{name} is {value}: it must be {finite}at least {least}{upper}")


def check_whole(name: str, value: Any, least: int, most: float = math.inf) -> None:
    """The same for whole numbers, Python's or NumPy's."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= value <= most:
        bounds = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        raise UserError(f"{name} is {value!r}: choose a whole number {bounds}")
