"""Data parallelism: gradients and running statistics across the replicas."""

import warnings
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from divdet.engine.distributed import World


def data_parallel(model: nn.Module, world: World) -> nn.Module:
    """Wraps ``model`` in PyTorch's DDP over the replicas; returns it unchanged where there is one."""
    if world.replica_group is None:
        return model
    # Without find_unused_parameters DDP's first step sums in another order than later ones: resumes would differ.
    warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
    replica = DistributedDataParallel(model, process_group=world.replica_group, find_unused_parameters=True)
    if world.member_group is not None:
        replica.register_comm_hook(world.replica_group, _average_in_turn)
    return replica


def _average_in_turn(group: dist.ProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Averages a bucket of gradients over the replicas before the backward pass goes on.

    DDP would overlap this with the collectives of the members' group, and two NCCL communicators in flight at once can
    deadlock. Here each process runs one collective at a time.

    This cannot deadlock. Let M be the collectives of the members' group or of all processes, R those of a replica
    group. All processes issue the same M in the same order: they run the same shared layers and loop. The processes of
    a replica group hold the same member, so they issue the same R between the same two M. Sorted by the number of M
    before it, every process issues its collectives in this order, so the first unfinished one can always finish.
    """
    average = bucket.buffer().mul_(1 / dist.get_world_size(group))  # as DDP divides
    dist.all_reduce(average, group=group)
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(average)
    return done


def share_buffers(model: nn.Module, world: World) -> None:
    """Gives all replicas the first one's running statistics, which are the ones saved."""
    if world.replica_group is not None:
        for buffer in model.buffers():
            dist.broadcast(buffer, group_src=0, group=world.replica_group)


def sum_gradients(parameters: Sequence[nn.Parameter], group: dist.ProcessGroup | None) -> None:
    """Sums the gradients of ``parameters`` over the processes of ``group``, in one message."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if group is None or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat, group=group)
    for gradient, total in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))
