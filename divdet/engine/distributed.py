"""This process's place in a run of several, and what the processes exchange.

A run of P processes has ``members`` x ``replicas`` = P of them. In data parallelism (``members`` = 1) every process has
all members and its share of each batch. In member parallelism a process has one member: ``members`` = S neighboring
processes together make one replica of the network. Inference imports this file, so it avoids what is slow to import.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from divdet.engine.errors import UserError
from divdet.engine.faults import process_fault
from divdet.engine.members import Elsewhere

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """This process's place among all.

    Attributes:
        member: index of the member that this process has; 0 where it has all of them.
        members: processes that share one network: 1 or S.
        replica: index of the part of each batch that this process has.
        replicas: processes, or groups of ``members`` processes, that share a batch.
        mesh: replicas x members; None in a run of a single process.
        patient: all processes, for what may take hours. It notices at once when one has died; other groups give up
            after minutes. Made while all are there, since making it would wait for the dead.
    """

    member: int = 0
    members: int = 1
    replica: int = 0
    replicas: int = 1
    mesh: DeviceMesh | None = None
    patient: dist.ProcessGroup | None = None

    @property
    def size(self) -> int:
        """The number of processes."""
        return self.members * self.replicas

    @property
    def is_main_process(self) -> bool:
        """Whether this process prints and writes."""
        return self.member == self.replica == 0

    @property
    def member_group(self) -> dist.ProcessGroup | None:
        """The processes with the members of this replica; None without member parallelism."""
        return self.mesh["members"].get_group() if self.mesh and self.members > 1 else None

    @property
    def replica_group(self) -> dist.ProcessGroup | None:
        """The processes with the same part of the network; None without data parallelism."""
        return self.mesh["replicas"].get_group() if self.mesh and self.replicas > 1 else None

    def gather_members(self, local: Tensor) -> Tensor:
        """Gathers the members' outputs: [1, ...] of this process -> [S, ...]; unchanged without member parallelism.

        Gradients flow to the local part without communication: all processes of a replica compute the same loss from
        the gathered outputs, so each has the whole gradient of its own.
        """
        return local if self.member_group is None else _Gather.apply(local, self.member_group, self.member)

    def gather_member_objects(self, local: list[Value]) -> list[Value]:
        """Concatenates the lists of all processes of this replica."""
        if self.member_group is None:
            return local
        gathered: list[Any] = [None] * self.members
        dist.all_gather_object(gathered, local, group=self.member_group)
        return [value for part in gathered for value in part]

    def all_gather_objects(self, local: Value) -> list[Value]:
        """The value of every process, by rank; the members of a replica are neighbors."""
        if self.mesh is None:
            return [local]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, local)
        return gathered

    def gather(self, local: Value) -> list[Value]:
        """The value of every process, by rank, on the main process; an empty list on the others."""
        if self.mesh is None:
            return [local]
        gathered: list[Any] | None = [None] * self.size if self.is_main_process else None
        dist.gather_object(local, gathered)
        return gathered or []

    def broadcast_from_main(self, compute: Callable[[], Value]) -> Value:
        """Calls ``compute`` on the main process and gives its result to all."""
        if self.mesh is None:
            return compute()
        values = [compute() if self.is_main_process else None]
        dist.broadcast_object_list(values)
        return values[0]

    def await_main(self, compute: Callable[[], Value]) -> Value:
        """Like ``broadcast_from_main``, for work that may take hours or fail; a UserError of it ends all processes."""
        if self.mesh is None:
            return compute()
        outcome, failure = [None, True], None
        if self.is_main_process:
            try:
                outcome = [compute(), True]
            except UserError as error:
                failure, outcome = error, [None, False]
        try:
            dist.broadcast_object_list(outcome, group=self.patient, device=torch.device("cpu"))
        except RuntimeError as error:  # the base class of torch.distributed's errors
            raise UserError(process_fault(str(error)) or str(error)) from error
        if failure:
            raise failure
        if not outcome[1]:
            raise UserError("the first process has stopped: its message says why")
        return outcome[0]

    def await_all(self) -> None:
        """Waits for all processes, for hours if need be; UserError if one of them has died."""
        if self.mesh is not None:
            try:
                dist.barrier(group=self.patient)
            except RuntimeError as error:  # the base class of torch.distributed's errors
                raise UserError(process_fault(str(error)) or str(error)) from error

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over all processes; ``values`` stays as it is."""
        if self.mesh is not None:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def reseed(self) -> None:
        """Gives each process random numbers of its own, a function of the last seed and the rank."""
        if self.size > 1:
            torch.manual_seed((torch.initial_seed() + self.replica * self.members + self.member) % 2**63)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, group: dist.ProcessGroup, rank: int) -> Tensor:
        ctx.rank, ctx.count = rank, len(local)
        local = local.contiguous()
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, local, group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.rank * ctx.count : (ctx.rank + 1) * ctx.count].contiguous(), None, None


def keep_local(members: nn.ModuleList, world: World) -> None:
    """Replaces the members that other processes have by `Elsewhere`."""
    for number in range(len(members)):
        if world.members > 1 and number != world.member:
            members[number] = Elsewhere()


def is_shared(name: str) -> bool:
    """Whether all members use the parameter or module ``name``; ``members`` and ``adapters`` have one part each."""
    return name.partition(".")[0] not in ("members", "adapters")


def shared_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that all members use."""
    return [parameter for name, parameter in model.named_parameters() if is_shared(name)]


def is_main_process() -> bool:
    """Whether this is the only process or torchrun's first; works before the processes have joined."""
    return os.environ.get("RANK", "0") == "0"
