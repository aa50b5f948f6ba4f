"""The deterministic weights and inputs behind the released code's expected outputs (released_checkpoints/README.md)."""

import json
import math
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

RELATIVE_TOLERANCE = 1e-4


@cache
def released(shared: Path, name: str) -> dict[str, Any]:
    """The content of ``released_checkpoints/<name>.json``."""
    return json.loads((shared / "reference" / "released_checkpoints" / f"{name}.json").read_text())


def deterministic_weight(key: str, shape: tuple[int, ...]) -> Tensor:
    """The weight that stands under ``key`` in a released file."""
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    n = RandomState(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        n *= np.float32(math.sqrt(2 / math.prod(shape[1:])))
    elif key.endswith("running_var"):
        n = 1 + np.float32(0.1) * np.abs(n)
    elif key.endswith(("running_mean", "bias")):
        n *= np.float32(0.1)
    else:
        n = np.float32(0.5) + np.float32(0.1) * n
    return torch.from_numpy(n)


def deterministic_weights(layout: dict[str, list[int]]) -> dict[str, Tensor]:
    """A state dict for a layout {key: shape}."""
    return {key: deterministic_weight(key, tuple(shape)) for key, shape in layout.items()}


def deterministic_images(shape: list[int]) -> Tensor:
    """Normally distributed images of seed 0."""
    return torch.from_numpy(RandomState(0).standard_normal(shape).astype(np.float32))


def assert_probe(tensor: Tensor, probe: dict[str, Any]) -> None:
    """Fails unless shape, sum, sum of absolutes and the sampled values agree, relative to the values' mean size."""
    assert list(tensor.shape) == probe["shape"]
    values = tensor.detach().double().flatten()
    expected = torch.tensor(probe["val"], dtype=torch.float64)
    scale = probe["abs_sum"] / values.numel()
    torch.testing.assert_close(values[probe["idx"]], expected, rtol=RELATIVE_TOLERANCE, atol=RELATIVE_TOLERANCE * scale)
    assert math.isclose(values.abs().sum().item(), probe["abs_sum"], rel_tol=RELATIVE_TOLERANCE)
    assert abs(values.sum().item() - probe["sum"]) <= RELATIVE_TOLERANCE * probe["abs_sum"]
