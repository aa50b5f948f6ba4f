"""Which statistics batch normalization uses in training."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from divdet.engine.distributed import World, is_shared
from divdet.engine.errors import UserError
from divdet.engine.settings import BatchNorm


class _AllReduce(torch.autograd.Function):
    """The sum over a group's processes; backward sums their gradients, since every loss depends on every part."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group, total = group, values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization over the batches of a group's processes, which must be equally large.

    PyTorch's SyncBatchNorm needs CUDA; this one runs on any device. Deviations are taken from the common mean, in
    float32, so that nothing cancels.
    """

    group: dist.ProcessGroup | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,C,H,W]."""
        if not self.training or self.group is None:
            return super().forward(x)
        count = x.numel() // x.shape[1] * dist.get_world_size(self.group)
        values = x.float()
        mean = _AllReduce.apply(values.sum((0, 2, 3)), self.group) / count
        centered = values - mean[:, None, None]
        variance = _AllReduce.apply(centered.square().sum((0, 2, 3)), self.group) / count
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)
            momentum = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(variance.detach() * (count / max(count - 1, 1)), momentum)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        normalized = centered * scale[:, None, None]
        return (normalized + self.bias[:, None, None] if self.affine else normalized).to(x.dtype)


def synchronize(module: nn.Module, group: dist.ProcessGroup | None) -> None:
    """Makes every batch norm of ``module`` a `SyncBatchNorm2d` of ``group``; None changes nothing.

    Raises:
        UserError: for another library's batch norm, which does more than normalize.
    """
    for layer in module.modules() if group is not None else ():
        if isinstance(layer, nn.BatchNorm2d):
            if type(layer) not in (nn.BatchNorm2d, SyncBatchNorm2d):
                raise UserError(
                    f"train.batch_norm: {type(layer).__name__}, of this backbone, cannot be synchronized; set it to own"
                )
            layer.__class__ = SyncBatchNorm2d  # keeps weights and keys
            layer.group = group


def prepare(model: nn.Module, setting: BatchNorm, world: World) -> None:
    """Applies ``train.batch_norm`` for training in several processes.

    In member parallelism shared layers are always synchronized over the members, whose features they all normalize.
    """
    for name, child in model.named_children():
        if world.member_group is not None and is_shared(name):
            synchronize(child, dist.group.WORLD if setting == "sync" else world.member_group)
        elif setting == "sync":
            synchronize(child, world.replica_group)


def freeze(model: nn.Module, setting: BatchNorm) -> None:
    """Makes batch norms use their running statistics and not update them, where ``train.batch_norm`` says so.

    Call it after ``model.train()``. The backbones are ``model.members``.
    """
    if setting not in ("frozen", "frozen_backbone"):
        return
    for layer in (model if setting == "frozen" else model.members).modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()


def note_fresh(setting: BatchNorm) -> None:
    """Prints a note where ``train.batch_norm`` keeps the statistics of a network from scratch."""
    if setting.startswith("frozen"):
        print(
            f"note: train.batch_norm {setting} keeps the statistics of a fresh backbone, mean 0 and variance 1, which "
            "are not those of its features: set it to own, or give model.pretrained"
        )


@torch.no_grad()
def estimate(model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], object]) -> None:
    """Gives batch norms new running statistics: the averages over ``batches``, each run by ``forward``."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # all batches count alike
    model.train()
    for batch in batches:
        forward(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
