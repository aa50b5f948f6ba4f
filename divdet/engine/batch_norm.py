"""Whose statistics batch normalisation uses in training."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from divdet.engine.distributed import World, is_shared
from divdet.engine.errors import UserError
from divdet.engine.settings import BatchNorm


class _Sum(torch.autograd.Function):
    """The sum over a group's processes; its derivative sums theirs, since each process's loss depends on every part."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics of all processes of a group, which must have equally large batches.

    PyTorch's SyncBatchNorm runs on CUDA alone; this one runs on any device. Deviations are taken from the common mean,
    in float32, so that nothing cancels.
    """

    group: dist.ProcessGroup | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,C,H,W]."""
        if not self.training or self.group is None:
            return super().forward(x)
        count = x.numel() // x.shape[1] * dist.get_world_size(self.group)
        values = x.float()
        mean = _Sum.apply(values.sum((0, 2, 3)), self.group) / count
        centred = values - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3)), self.group) / count
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)
            momentum = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(variance.detach() * (count / max(count - 1, 1)), momentum)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        normalised = centred * scale[:, None, None]
        return (normalised + self.bias[:, None, None] if self.affine else normalised).to(x.dtype)


def synchronise(module: nn.Module, group: dist.ProcessGroup | None) -> None:
    """Makes every batch norm of ``module`` use the statistics of all of ``group``; None changes nothing.

    Raises:
        UserError: for a batch norm of another library, which does more than normalise.
    """
    for layer in module.modules() if group is not None else ():
        if isinstance(layer, nn.BatchNorm2d):
            if type(layer) not in (nn.BatchNorm2d, SyncBatchNorm2d):
                raise UserError(
                    f"train.batch_norm: {type(layer).__name__} of this backbone cannot be sync; set it to own"
                )
            layer.__class__ = SyncBatchNorm2d  # same weights, same keys
            layer.group = group


def prepare(model: nn.Module, setting: BatchNorm, world: World) -> None:
    """Sets up ``train.batch_norm`` for training in several processes.

    Where a process has one member, what the members share sees the others' features by their statistics alone.
    """
    apart = world.member_group is not None
    for name, child in model.named_children():
        if apart and is_shared(name):
            synchronise(child, dist.group.WORLD if setting == "sync" else world.member_group)
        elif setting == "sync":
            synchronise(child, world.replica_group)


def freeze(module: nn.Module) -> None:
    """Makes every batch norm normalise by its running statistics and leave them; call it after ``module.train()``."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
