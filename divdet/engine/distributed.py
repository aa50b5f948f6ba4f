"""The processes of torchrun, and which member and which part of the data each of them has.

A run of P processes has ``members`` x ``replicas`` = P of them. In data parallelism every process has all members
(``members`` = 1) and its share of each batch. In member parallelism a process has a single member: ``members`` = S
neighbouring processes together make one replica of the network.
"""

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel

from divdet.engine.devices import resolve_device, use_device
from divdet.engine.errors import UserError
from divdet.engine.faults import process_fault
from divdet.engine.members import Elsewhere

Value = TypeVar("Value")
_TIMEOUT = timedelta(minutes=5)  # for what a process waits: the others to start, the first one to save and score


@dataclass(frozen=True)
class World:
    """This process's place among all.

    Attributes:
        member: which of ``members`` parts of the network this process has; 0 where it has all of it.
        members: processes that share out one network: 1, or S.
        replica: which of ``replicas`` parts of each batch this process has.
        replicas: processes, or groups of them, that share out a batch.
        mesh: replicas x members; None in a run of a single process.
    """

    member: int = 0
    members: int = 1
    replica: int = 0
    replicas: int = 1
    mesh: DeviceMesh | None = None

    @property
    def size(self) -> int:
        """The number of processes."""
        return self.members * self.replicas

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.member == self.replica == 0

    @property
    def member_group(self) -> dist.ProcessGroup | None:
        """The processes that have the other members of this replica; None where there are none."""
        return self.mesh["members"].get_group() if self.mesh and self.members > 1 else None

    @property
    def replica_group(self) -> dist.ProcessGroup | None:
        """The processes that have the same part of the network; None where there are none."""
        return self.mesh["replicas"].get_group() if self.mesh and self.replicas > 1 else None

    def has(self, member: int) -> bool:
        """Whether this process has the member of that number, from 0."""
        return self.members == 1 or member == self.member

    def gather_members(self, own: Tensor) -> Tensor:
        """The members' outputs ``[S, ...]`` from this process's ``[1, ...]``; as it is where this process has all.

        Gradients come back to the own part alone, without communication: all processes of a replica compute the same
        loss from what is gathered, so each has the whole derivative by its own outputs.
        """
        return own if self.member_group is None else _Gather.apply(own, self.member_group, self.member)

    def all_gather_objects(self, own: Value) -> list[Value]:
        """The value of every process, by rank: members of a replica follow each other."""
        if self.mesh is None:
            return [own]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, own)
        return gathered

    def gather(self, own: Value) -> list[Value]:
        """The value of every process, by rank, on the first one; nothing on the others."""
        if self.mesh is None:
            return [own]
        gathered: list[Any] | None = [None] * self.size if self.is_main_process else None
        dist.gather_object(own, gathered)
        return gathered or []

    def broadcast_from_main(self, compute: Callable[[], Value]) -> Value:
        """What the first process computes, on all of them."""
        if self.mesh is None:
            return compute()
        values = [compute() if self.is_main_process else None]
        dist.broadcast_object_list(values)
        return values[0]

    def gather_member_objects(self, own: list[Value]) -> list[Value]:
        """The lists of all processes of this replica, one after the other."""
        if self.member_group is None:
            return own
        gathered: list[Any] = [None] * self.members
        dist.all_gather_object(gathered, own, group=self.member_group)
        return [value for part in gathered for value in part]

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.mesh is not None:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def reseed(self) -> None:
        """Sets this process's random numbers apart from the others', as a function of the last seed and its rank."""
        if self.size > 1:
            torch.manual_seed((torch.initial_seed() + self.replica * self.members + self.member) % 2**63)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, group: dist.ProcessGroup, rank: int) -> Tensor:
        ctx.rank, ctx.count = rank, len(own)
        parts = [
            torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))
        ]
        dist.all_gather(parts, own.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.rank * ctx.count : (ctx.rank + 1) * ctx.count].contiguous(), None, None


@contextmanager
def processes(device: str, members: int, member_parallel: bool) -> Iterator[tuple[World, torch.device]]:
    """Joins the processes that torchrun started, and leaves them at the end; a single process without torchrun.

    Only the first process prints to stdout.

    Args:
        device: auto, cpu, cuda or cuda:N; under torchrun without a number, which is LOCAL_RANK.
        members: S.
        member_parallel: one member a process.

    Raises:
        UserError: for a device that is not there, or a number of processes that is no multiple of the members.
    """
    launched = dist.is_torchelastic_launched()
    count = int(os.environ["WORLD_SIZE"]) if launched else 1
    parts = members if member_parallel else 1
    if count % parts:
        raise UserError(
            f"train.member_parallel: {members} members need a multiple of {members} processes, not {count}: "
            f"start it by torchrun --nproc_per_node={members}"
        )
    if not launched:
        yield World(), use_device(device)
        return
    chosen = resolve_device(device)
    if chosen.type == "cuda":
        if chosen.index is not None:
            raise UserError(f"--device {device}: under torchrun each process takes its own device; say cuda or auto")
        chosen = use_device(f"cuda:{os.environ['LOCAL_RANK']}")
    try:
        store, rank, _ = next(dist.rendezvous("env://", timeout=_TIMEOUT))
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        store = _store_of_this_start(store, rank, count)
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_TIMEOUT)
    except RuntimeError as error:  # the base class of torch.distributed's errors
        reason = process_fault(str(error)) or str(error).strip().partition("\n")[0]
        raise UserError(f"the {count} processes could not join: {reason}") from error
    try:
        mesh = _mesh(chosen.type, torch.arange(count).view(-1, parts))
        replica, member = divmod(dist.get_rank(), parts)
        world = World(member, parts, replica, count // parts, mesh)
        with ExitStack() as stack:
            if not world.is_main_process:
                stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            print(f"{count} processes: {world.replicas} x {parts} (batches x members), {dist.get_backend()}")
            yield world, chosen
    except UserError:
        raise  # its message first: others may be waiting for this process, and leaving the group for them
    except BaseException:
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _mesh(device_type: str, ranks: Tensor) -> DeviceMesh:
    """The ranks [replicas, members] as a mesh; by itself it would make groups that wait for half an hour."""
    groups = []
    for rows in (ranks.T.tolist(), ranks.tolist()):
        made = [dist.new_group(row, timeout=_TIMEOUT) for row in rows]
        groups.append(next(group for group, row in zip(made, rows, strict=True) if dist.get_rank() in row))
    return DeviceMesh.from_group(groups, device_type, mesh=ranks, mesh_dim_names=("replicas", "members"))


def _store_of_this_start(store: dist.Store, rank: int, count: int) -> dist.Store:
    """A part of torchrun's store that only the processes of this start use.

    torchrun keeps one store over its restarts, so that processes would find the addresses of those before them and call
    them in vain (pytorch issue 135712). Nothing in the environment tells starts apart on all nodes: each node counts
    its own. So the first process draws a name, and tells it to each other process by that process's own new key.
    """
    name = uuid4().hex
    if rank:
        store.set(f"present/{rank}", name)
        given = store.get(f"given/{name}").decode()  # waits for it
        store.set(f"taken/{given}/{rank}", "")
        return dist.PrefixStore(given, store)
    answered, limit = set(), time.monotonic() + _TIMEOUT.total_seconds()
    others = range(1, count)
    while not all(store.check([f"taken/{name}/{other}"]) for other in others):
        for other in others:
            key = f"present/{other}"
            # Until all have taken it: a key may be left from a start before.
            if store.check([key]) and (asking := store.get(key).decode()) not in answered:
                store.set(f"given/{asking}", name)
                answered.add(asking)
        if time.monotonic() > limit:
            raise RuntimeError(f"not all of the {count} processes have started within {_TIMEOUT}")
        time.sleep(0.02)
    return dist.PrefixStore(name, store)


def keep_own(members: nn.ModuleList, world: World) -> None:
    """Leaves the members that this process has, and an `Elsewhere` in the place of every other one."""
    for number in range(len(members)):
        if not world.has(number):
            members[number] = Elsewhere()


def is_shared(name: str) -> bool:
    """Whether all members use the part of a network of that name: ``members`` and ``adapters`` have a part for each."""
    return name.partition(".")[0] not in ("members", "adapters")


def shared_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that all members use."""
    return [parameter for name, parameter in model.named_parameters() if is_shared(name)]


def data_parallel(model: nn.Module, world: World) -> nn.Module:
    """``model`` in PyTorch's DDP over the replicas; as it is where there is one."""
    if world.replica_group is None:
        return model
    # Otherwise DDP's first step sums in another order than its later ones, and a resumed run would differ.
    order = {"find_unused_parameters": True}
    warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
    replica = DistributedDataParallel(model, process_group=world.replica_group, **order)
    if world.member_group is not None:
        replica.register_comm_hook(world.replica_group, _average_in_turn)
    return replica


def _average_in_turn(group: dist.ProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Averages a bucket of gradients over the replicas before the backward pass goes on.

    DDP would overlap it with the collectives of the members' group. Two NCCL communicators in flight at the same time
    can deadlock, so here each process runs one collective at a time: none is asynchronous, and each follows the one
    before it on the same stream.

    Nor can the processes wait for each other in a circle. Let M be the collectives of the members' group or of all
    processes, R those of a replica group. All processes issue the same M in the same order, since they run the same
    shared layers and the same loop. Those of a replica group hold the same member, so they issue the same R between
    the same two M. Sorted by the number of M before it, every process issues its collectives in this order, so the
    first unfinished one can always finish.
    """
    average = bucket.buffer().mul_(1 / dist.get_world_size(group))  # as DDP divides
    dist.all_reduce(average, group=group)
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(average)
    return done


def share_buffers(model: nn.Module, world: World) -> None:
    """Gives every replica the first one's running statistics, those that are saved."""
    if world.replica_group is not None:
        for buffer in model.buffers():
            dist.broadcast(buffer, group_src=0, group=world.replica_group)


def sum_gradients(parameters: Sequence[nn.Parameter], group: dist.ProcessGroup | None) -> None:
    """Adds up the gradients of ``parameters`` over the processes of ``group``, all in one message."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if group is None or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat, group=group)
    for gradient, total in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))


def is_main_process() -> bool:
    """Whether this is the only process or torchrun's first, known before the processes have joined."""
    return os.environ.get("RANK", "0") == "0"
