"""The scaler of fp16 in several processes."""

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from divdet.engine.launch import processes
from divdet.engine.optimization import build_scaler
from tests.processes import environment


def steps() -> None:
    """Three steps of a weight of 1 by a rate of 1; in the second the first process's gradient overflows."""
    with processes("cpu", 1, False) as (world, device):
        scaler = build_scaler(device, True, world)
        weight = nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        values = []
        for number in range(3):
            optimizer.zero_grad()
            factor = torch.inf if number == 1 and world.is_main_process else 0.25
            scaler.scale(weight * factor).sum().backward()
            scaler.step(optimizer)
            scaler.update()
            values += [weight.item(), scaler.get_scale()]
        ends = world.all_gather_objects(values)
        print(ends == [[0.75, 65536.0, 0.75, 32768.0, 0.5, 32768.0]] * 2 or ends)


def test_a_step_is_skipped_by_all_processes() -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    done = subprocess.run(
        words, env=environment(), capture_output=True, text=True, timeout=200, cwd=Path(__file__).parent
    )
    assert done.stdout.splitlines()[-1:] == ["True"], done.stdout + done.stderr


if __name__ == "__main__":
    steps()
