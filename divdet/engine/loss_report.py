"""What the processes tell each other at every step: their losses, and whether to stop."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from divdet.engine.distributed import World

# Steps by which a report is read late. Read at once, the CPU would wait for the GPU to finish the step, and the GPU
# then for the CPU.
_LATE = {"cpu": 0, "cuda": 1}


@dataclass
class Report:
    """A step's losses.

    Attributes:
        batches: batches done of the epoch when the step ended.
        losses: this process's losses, a row for each batch of the step and a column for each name.
        names: of the losses.
        values: the sums over batches and processes of the finite losses, then for each name how many processes had one
            that is not finite, then how many have got a signal; on the CPU.
        arrived: the CUDA event after which ``values`` can be read; None if it can be now.
    """

    batches: int
    losses: Tensor
    names: list[str]
    values: Tensor
    arrived: Any = None

    def wait(self) -> tuple[dict[str, float], list[str], bool]:
        """The summed losses by name, the names of those that are not finite, and whether a process got a signal."""
        if self.arrived is not None:
            self.arrived.synchronize()
        values, count = self.values.tolist(), len(self.names)
        bad = [name for name, number in zip(self.names, values[count:-1], strict=True) if number]
        return dict(zip(self.names, values, strict=False)), bad, bool(values[-1])


class LossReports:
    """The reports of the last steps; all processes add and read them at the same steps.

    Args:
        world: the processes.
        device: of the losses.
    """

    def __init__(self, world: World, device: torch.device) -> None:
        self.world, self.late = world, _LATE[device.type]
        self.unread: list[Report] = []

    def add(self, collected: list[dict[str, Tensor]], batches: int, signal: int) -> None:
        """Sends a step's losses; nothing here waits for the device.

        Args:
            collected: the losses of each of its batches.
            batches: batches done of the epoch.
            signal: number of a signal that this process has got, or 0.
        """
        names = list(collected[0])
        own = torch.stack([torch.stack([losses[name].float() for name in names]) for losses in collected])
        finite = torch.isfinite(own).all(0)
        stop = own.new_full((1,), float(signal > 0))
        message = torch.cat([own.nan_to_num(0, 0, 0).sum(0), (~finite).float(), stop])
        values = self.world.all_reduce(message.double())
        arrived = None
        if values.device.type == "cuda":
            # Copied right behind this step's losses: a later copy would wait for everything queued since.
            arrived, stream = torch.cuda.Event(), torch.cuda.current_stream(values.device)
            values = values.to("cpu", non_blocking=True)
            arrived.record(stream)
        self.unread.append(Report(batches, own, names, values, arrived))

    def due(self, all_of_them: bool = False) -> list[Report]:
        """The reports that are to be read now, the oldest first: those that are late enough, or all."""
        count = len(self.unread) - (0 if all_of_them else self.late)
        due, self.unread = self.unread[: max(count, 0)], self.unread[max(count, 0) :]
        return due
