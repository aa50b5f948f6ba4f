"""What a training run consists of besides its settings, by names, so that any layout of processes can continue it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from divdet.engine import checkpoint
from divdet.engine.distributed import World
from divdet.engine.members import Elsewhere


def own_entries(saved: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """The entries of a whole network's dict that concern this process's part of it."""
    elsewhere = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, Elsewhere))
    return {name: value for name, value in saved.items() if not name.startswith(elsewhere)} if elsewhere else saved


def whole(own: dict[str, Tensor], world: World) -> dict[str, Tensor]:
    """The whole network's dict of tensors from the processes' parts, on the first process; nothing of it on others."""
    if world.member_group is None:
        return own
    parts: list[Any] | None = [None] * world.members if world.is_main_process else None
    if world.replica == 0:
        mine = {name: value.cpu() for name, value in own.items()}
        dist.gather_object(mine, parts, group=world.member_group, group_dst=0)
    return {name: value for part in parts or () for name, value in part.items()}


def momentum(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """SGD's momentum by the parameters' names; empty before the first step."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    held = {names[p]: state.get("momentum_buffer") for p, state in optimizer.state.items()}
    return {name: value for name, value in held.items() if value is not None}


def load_momentum(optimizer: Optimizer, model: nn.Module, saved: dict[str, Tensor], source: str) -> None:
    """Takes up the momentum that a checkpoint holds.

    Raises:
        UserError: naming ``source``, where it is not that of this network.
    """
    saved = own_entries(saved, model)
    own = dict(model.named_parameters())
    if saved:
        checkpoint.check_weights(own, saved, source)
    for name, value in saved.items():
        optimizer.state[own[name]]["momentum_buffer"] = torch.empty_like(own[name], requires_grad=False).copy_(value)


def not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """The names of the tensors that hold a value that is not finite; waits once for the device they are on."""
    if not tensors:
        return []
    sound = torch.stack([value.isfinite().all() for value in tensors.values()]).tolist()
    return [name for name, finite in zip(tensors, sound, strict=True) if not finite]


class ModelEMA:
    """An exponential moving average of all weights and running statistics, taken at every step.

    The decay of step n is min(decay, (1 + n) / (10 + n)), as in TensorFlow, so that the start is soon forgotten.

    Args:
        model: whose weights are averaged.
        decay: of one step; 0 averages nothing.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.steps = model, decay, 0
        self.values = {k: v.clone() for k, v in model.state_dict().items()} if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """Takes the model's present weights into the average."""
        if not self.decay:
            return
        self.steps += 1
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        current = self.model.state_dict()
        floats = [name for name, value in current.items() if value.is_floating_point()]
        counts = [name for name, value in current.items() if not value.is_floating_point()]
        # One kernel for many tensors on a GPU
        torch._foreach_lerp_([self.values[name] for name in floats], [current[name] for name in floats], weight)
        if counts:
            torch._foreach_copy_([self.values[name] for name in counts], [current[name] for name in counts])

    def load(self, saved: dict[str, Tensor], steps: int) -> None:
        """Takes up an average that a checkpoint holds; an empty one leaves it at the model's weights."""
        for name, value in own_entries(saved, self.model).items():
            self.values[name].copy_(value)
        self.steps = steps

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside, its own again afterwards."""
        own = {name: value.clone() for name, value in self.model.state_dict().items()} if self.decay else {}
        if own:
            self.model.load_state_dict(self.values)
        try:
            yield
        finally:
            if own:
                self.model.load_state_dict(own)
