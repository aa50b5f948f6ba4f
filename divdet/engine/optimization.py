"""Optimizer, gradient scaling and clipping, and the learning rate schedule."""

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from divdet.engine.distributed import World, shared_parameters
from divdet.engine.settings import TrainSettings


def build_optimizer(
    model: nn.Module,
    settings: TrainSettings,
    weight_decay: float,
    scaled: bool = False,
    lr_factors: Mapping[str, float] | None = None,
) -> Optimizer:
    """The optimizer, with weight decay on all but one-dimensional parameters: biases and normalization layers.

    It is fused unless the losses are ``scaled``: where a scaler skips the first step, fused SGD keeps uninitialized
    momentum, and one process of several could skip a step alone. ``lr_factors`` (see ``divdet.engine.task.Task``)
    become the groups' ``lr_factor``.
    """
    parts: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim <= 1 and not settings.decay_all
            factor = next((f for prefix, f in (lr_factors or {}).items() if name.startswith(prefix)), 1.0)
            parts.setdefault((exempt, factor), []).append(parameter)
    groups = [
        {"params": parts[key], "weight_decay": 0.0 if key[0] else weight_decay, "lr_factor": key[1]}
        for key in sorted(parts)
    ]
    if settings.optimizer == "adamw":
        return AdamW(groups, lr=settings.lr, betas=(settings.momentum, 0.999), fused=not scaled)
    nesterov = settings.nesterov and settings.momentum > 0
    return SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov, fused=not scaled)


def build_scaler(device: torch.device, enabled: bool, world: World) -> torch.amp.GradScaler:
    """The scaler of fp16's losses; of several processes all skip a step or none."""
    if enabled and world.size > 1:
        from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler  # slow to import

        return ShardedGradScaler(device.type)
    return torch.amp.GradScaler(device.type, enabled=enabled)


def clip_gradient(model: nn.Module, limit: float, world: World) -> None:
    """Clips the gradient of the whole network, other processes' members included, to a norm of ``limit``."""
    if world.member_group is None:
        nn.utils.clip_grad_norm_(model.parameters(), limit)
        return
    shared = shared_parameters(model)
    shared_ids = {id(p) for p in shared}
    local = [p.grad for p in model.parameters() if p.grad is not None and id(p) not in shared_ids]
    # Of frozen members there is none; the sum needs a tensor on the device all the same
    squared = nn.utils.get_total_norm(local) ** 2 if local else torch.zeros((), device=next(model.parameters()).device)
    dist.all_reduce(squared, group=world.member_group)
    if shared:
        squared += nn.utils.get_total_norm([p.grad for p in shared if p.grad is not None]) ** 2
    nn.utils.clip_grads_with_norm_(model.parameters(), limit, squared.sqrt())


def learning_rate(settings: TrainSettings, epoch: float, end: float | None = None) -> float:
    """The learning rate of a step (paper, Sec. IV-A, per step).

    Linear warm-up, then ÷10 at each milestone or the cosine ``end_lr + (lr − end_lr) · 0.5 · (1 + cos(π · (epoch −
    warm-up) / (epochs − warm-up)))``. Warm-up steps have the rate of their end, later steps that of their beginning, so
    no step has a rate of 0 or above ``lr``.

    Args:
        settings: the recipe.
        epoch: where the step begins, as a fraction.
        end: where the step ends; default: ``epoch``, as in the paper's formula.
    """
    if epoch < settings.warmup_epochs:
        share = min((epoch if end is None else end) / settings.warmup_epochs, 1.0)
        return settings.lr * share + settings.warmup_lr * (1 - share)
    if settings.schedule == "step":
        return settings.lr * 0.1 ** sum(epoch >= step for step in settings.milestones)
    length = max(settings.epochs - settings.warmup_epochs, 1e-9)
    falling = 0.5 * (1 + math.cos(math.pi * (epoch - settings.warmup_epochs) / length))
    return settings.lr * falling + settings.end_lr * (1 - falling)
