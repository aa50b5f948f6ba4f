"""The order in which processes with a member and a part of the batch each issue their collectives.

The processes are run one after the other, each with PyTorch's "fake" group, which connects to nobody.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from divdet.engine import batch_norm
from divdet.engine.data_parallel import data_parallel, sum_gradients
from divdet.engine.distributed import World, keep_local, shared_parameters
from divdet.engine.launch import _mesh
from divdet.engine.members import present

MEMBERS, REPLICAS = 2, 2
Call = tuple[tuple[int, ...], str]  # the ranks that take part, and what they do


class Network(nn.Module):
    """Two members of different depth, of more than one of DDP's buckets each, and shared layers with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, 256, 1), *[nn.Conv2d(256, 256, 3, padding=1, bias=False) for _ in range(depth)])
            for depth in (2, 14)
        )
        self.shared = nn.Sequential()
        for _ in range(3):
            self.shared.extend([nn.Conv2d(256, 256, 3, padding=1), nn.BatchNorm2d(256)])

    def forward(self, images: Tensor) -> Tensor:
        ((_, own),) = present(self.members)
        return self.shared(own(images))


@contextmanager
def process(rank: int) -> Iterator[World]:
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=MEMBERS * REPLICAS)
    try:
        mesh = _mesh("cpu", torch.arange(MEMBERS * REPLICAS).view(REPLICAS, MEMBERS))
        replica, member = divmod(rank, MEMBERS)
        yield World(member, MEMBERS, replica, REPLICAS, mesh)
    finally:
        dist.destroy_process_group()


def issued(rank: int, setting: batch_norm.BatchNorm, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """The collectives of two steps of a process."""
    calls: list[Call] = []

    def recorded(name: str) -> None:
        original = getattr(dist, name)

        def call(*arguments: object, group: dist.ProcessGroup | None = None, async_op: bool = False) -> object:
            assert not async_op, "it would run beside the next one"
            calls.append((tuple(dist.get_process_group_ranks(group or dist.group.WORLD)), name))
            return original(*arguments, group=group)

        patch.setattr(dist, name, call)

    torch.manual_seed(rank % MEMBERS)
    with process(rank) as world, monkeypatch.context() as patch:
        model = Network()
        keep_local(model.members, world)
        batch_norm.prepare(model, setting, world)
        network = data_parallel(model, world)
        for name in ("all_reduce", "all_gather"):
            recorded(name)
        for _ in range(2):
            output = world.gather_members(network(torch.randn(2, 3, 4, 4))[None])
            output.square().mean().backward()
            sum_gradients(shared_parameters(model), world.member_group)
            world.all_reduce(torch.ones(1))
    return calls


@pytest.mark.parametrize("setting", ["own", "sync"])
def test_no_process_waits_in_a_circle(setting: batch_norm.BatchNorm, monkeypatch: pytest.MonkeyPatch) -> None:
    left = {rank: issued(rank, setting, monkeypatch) for rank in range(MEMBERS * REPLICAS)}
    for rank, calls in left.items():
        replicas = tuple(range(rank % MEMBERS, MEMBERS * REPLICAS, MEMBERS))
        assert len([ranks for ranks, _ in calls if ranks == replicas]) >= 4, "DDP's buckets, several a step"
    assert len(left[0]) != len(left[1]), "members of other depths have other buckets"
    # Each process is at one collective, which ends when all who take part are at it.
    while any(left.values()):
        first = {rank: calls[0] for rank, calls in left.items() if calls}
        ready = [call for call in set(first.values()) if all(first.get(rank) == call for rank in call[0])]
        assert ready, f"each waits for another: {first}"
        for call in ready:
            for rank in call[0]:
                left[rank].pop(0)
