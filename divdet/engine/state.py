"""The state of a training run by parameter name, so that any layout of processes can resume it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from divdet.engine.checkpoint import check_weights
from divdet.engine.distributed import World
from divdet.engine.members import Elsewhere

# What an optimizer remembers of a parameter
_PARTS = {SGD: ("momentum_buffer",), AdamW: ("step", "exp_avg", "exp_avg_sq")}


def local_entries(saved: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """The entries of a whole network's dict that belong to this process's members and the shared layers."""
    elsewhere = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, Elsewhere))
    return {name: value for name, value in saved.items() if not name.startswith(elsewhere)} if elsewhere else saved


def gather_entries(local: dict[str, Tensor], world: World) -> dict[str, Tensor]:
    """The whole network's dict from the processes' parts, on the main process; other processes get nothing useful."""
    if world.member_group is None:
        return local
    parts: list[Any] | None = [None] * world.members if world.is_main_process else None
    if world.replica == 0:
        on_cpu = {name: value.cpu() for name, value in local.items()}
        dist.gather_object(on_cpu, parts, group=world.member_group, group_dst=0)
    return {name: value for part in parts or () for name, value in part.items()}


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """What the optimizer remembers, by parameter name; empty before the first step.

    SGD's momentum has the parameter's own name; of AdamW each part's name follows it: ``name.exp_avg``.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    held = {_entry(names[p], part): value for p, state in optimizer.state.items() for part, value in state.items()}
    return {name: value for name, value in held.items() if value is not None}


def load_optimizer(optimizer: Optimizer, model: nn.Module, saved: dict[str, Tensor], source: str) -> None:
    """Restores a checkpoint's; raises UserError, naming ``source``, where it does not fit network and optimizer."""
    saved = local_entries(saved, model)
    if not saved:
        return
    state: dict[nn.Parameter, dict[str, Tensor]] = {}
    entries: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for part in _PARTS[type(optimizer)] if parameter.requires_grad else ():
            if part == "step":
                own = torch.zeros((), device=parameter.device if optimizer.defaults["fused"] else "cpu")
            else:
                own = torch.empty_like(parameter, requires_grad=False)  # keeps the memory layout
            entries[_entry(name, part)] = state.setdefault(parameter, {})[part] = own
    check_weights(entries, saved, source)
    for name, own in entries.items():
        own.copy_(saved[name])
    optimizer.state.update(state)


def _entry(name: str, part: str) -> str:
    return name if part == "momentum_buffer" else f"{name}.{part}"


def not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """The names of the tensors with a value that is not finite; synchronizes with their device once."""
    if not tensors:
        return []
    device = next(iter(tensors.values())).device  # AdamW's counts of steps may lie elsewhere than the rest
    finite = torch.stack([value.isfinite().all().to(device) for value in tensors.values()]).tolist()
    return [name for name, good in zip(tensors, finite, strict=True) if not good]


class ModelEMA:
    """An exponential moving average of all weights and running statistics, updated every step.

    The decay of step n is min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage, so that the
    initial weights are soon forgotten.

    Args:
        model: the model to average.
        decay: in [0, 1); 0 averages nothing.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.steps = model, decay, 0
        self.values = {k: v.clone() for k, v in model.state_dict().items()} if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """Adds the model's current weights to the average."""
        if not self.decay:
            return
        self.steps += 1
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        current = self.model.state_dict()
        floats = [name for name, value in current.items() if value.is_floating_point()]
        # One kernel for many tensors on a GPU.
        torch._foreach_lerp_([self.values[name] for name in floats], [current[name] for name in floats], weight)
        counts = [name for name, value in current.items() if not value.is_floating_point()]
        if counts:
            torch._foreach_copy_([self.values[name] for name in counts], [current[name] for name in counts])

    def load(self, saved: dict[str, Tensor], steps: int) -> None:
        """Restores an average after ``steps`` steps."""
        for name, value in saved.items():
            self.values[name].copy_(value)
        self.steps = steps

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Gives the model the averaged weights, and its own again afterwards."""
        own = {name: value.clone() for name, value in self.model.state_dict().items()} if self.decay else {}
        if own:
            self.model.load_state_dict(self.values)
        try:
            yield
        finally:
            if own:
                self.model.load_state_dict(own)
