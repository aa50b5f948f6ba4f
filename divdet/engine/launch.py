"""Joins the processes that torchrun started."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from datetime import timedelta
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from divdet.engine.devices import resolve_device, use_device
from divdet.engine.distributed import World
from divdet.engine.errors import UserError
from divdet.engine.faults import process_fault

_PATIENCE = timedelta(days=7)
_TIMEOUT = timedelta(minutes=5)  # for others to start, and for the main process to save and score


@contextmanager
def processes(device: str, members: int, member_parallel: bool) -> Iterator[tuple[World, torch.device]]:
    """Joins torchrun's processes and leaves them at the end; without torchrun there is a single process.

    Only the main process prints to stdout.

    Args:
        device: auto, cpu, cuda or cuda:N; under torchrun without a number, which is LOCAL_RANK.
        members: S.
        member_parallel: one member per process.

    Raises:
        UserError: for a device that does not exist, or a number of processes that is no multiple of the members.
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
        patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
        world = World(member, parts, replica, count // parts, mesh, patient)
        with ExitStack() as stack:
            if not world.is_main_process:
                stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            print(f"{count} processes: {world.replicas} x {parts} (batches x members), {dist.get_backend()}")
            yield world, chosen
    except UserError:
        raise  # without leaving the group first, which would wait for the others: the message comes at once
    except BaseException:
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _mesh(device_type: str, ranks: Tensor) -> DeviceMesh:
    """The ranks [replicas, members] as a mesh; groups that DeviceMesh makes itself would wait for half an hour."""
    groups = []
    for rows in (ranks.T.tolist(), ranks.tolist()):
        made = [dist.new_group(row, timeout=_TIMEOUT) for row in rows]
        groups.append(next(group for group, row in zip(made, rows, strict=True) if dist.get_rank() in row))
    return DeviceMesh.from_group(groups, device_type, mesh=ranks, mesh_dim_names=("replicas", "members"))


def _store_of_this_start(store: dist.Store, rank: int, count: int) -> dist.Store:
    """A part of torchrun's store that only the processes of this start use.

    torchrun keeps one store over restarts, so processes would find stale addresses of their predecessors (pytorch issue
    135712). No environment variable identifies a start, since nodes count restarts separately. So the first process
    draws a name and hands it to each other process under a key that only that process knows.
    """
    name = uuid4().hex
    if rank:
        store.set(f"present/{rank}", name)
        given = store.get(f"given/{name}").decode()  # waits until it is set
        store.set(f"taken/{given}/{rank}", "")
        return dist.PrefixStore(given, store)
    answered, limit = set(), time.monotonic() + _TIMEOUT.total_seconds()
    others = range(1, count)
    while not all(store.check([f"taken/{name}/{other}"]) for other in others):
        for other in others:
            key = f"present/{other}"
            # Asked until all have taken it: a key may be left over from an earlier start.
            if store.check([key]) and (asking := store.get(key).decode()) not in answered:
                store.set(f"given/{asking}", name)
                answered.add(asking)
        if time.monotonic() > limit:
            raise RuntimeError(f"not all of the {count} processes have started within {_TIMEOUT}")
        time.sleep(0.02)
    return dist.PrefixStore(name, store)
