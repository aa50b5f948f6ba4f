"""What the processes tell each other at every step: their losses, and whether to stop."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from divdet.engine.distributed import World

# Steps by which a report is read late. Read at once, it would make the CPU wait for the GPU to finish each step.
_LATE = {"cpu": 0, "cuda": 1}


@dataclass
class Report:
    """A step's losses.

    Attributes:
        batches: batches done of the epoch when the step ended.
        losses: this process's losses, [batches of the step, names].
        names: of the losses.
        values: on the CPU, float64: the sums of the finite losses over batches and processes; for each name, how many
            processes had a value that is not finite; how many processes got a signal.
        arrived: the CUDA event after which ``values`` can be read; None if it can be read now.
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
    """The reports of the last steps; all processes add and read them at the same steps."""

    def __init__(self, world: World, device: torch.device) -> None:
        self.world, self.late = world, _LATE[device.type]
        self.unread: list[Report] = []

    def add(self, collected: list[dict[str, Tensor]], batches: int, signal: int) -> None:
        """Sends a step's losses without waiting for the device.

        Args:
            collected: the losses of each of its batches.
            batches: batches done of the epoch.
            signal: number of a signal that this process got, or 0.
        """
        names = list(collected[0])
        local = torch.stack([torch.stack([losses[name].float() for name in names]) for losses in collected])
        finite = torch.isfinite(local).all(0)
        stop = local.new_full((1,), float(signal > 0))
        message = torch.cat([local.nan_to_num(0, 0, 0).sum(0), (~finite).float(), stop])
        values = self.world.all_reduce(message.double())
        arrived = None
        if values.device.type == "cuda":
            # Copied right behind this step's losses: a later copy would wait for everything queued since.
            arrived, stream = torch.cuda.Event(), torch.cuda.current_stream(values.device)
            values = values.to("cpu", non_blocking=True)
            arrived.record(stream)
        self.unread.append(Report(batches, local, names, values, arrived))

    def due(self, all_of_them: bool = False) -> list[Report]:
        """Takes out the reports to read now, oldest first."""
        count = max(len(self.unread) - (0 if all_of_them else self.late), 0)
        due, self.unread = self.unread[:count], self.unread[count:]
        return due
