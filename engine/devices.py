"""Where and in which precision a network runs."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from engine.errors import UserError

Precision = Literal["auto", "float32", "bf16", "fp16"]


def resolve_device(name: str) -> torch.device:
    """``auto`` (the first CUDA device, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: for a device that does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: unknown; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; use auto or cpu")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: not supported; use auto, cpu, cuda or cuda:N")
    return device


def precision_dtype(precision: Precision, device: torch.device, training: bool = False) -> torch.dtype | None:
    """The autocast dtype, or None for plain float32.

    ``auto`` takes bf16 on a CUDA device that has it and fp16 on an older one. On a CPU it takes float32, but bf16
    for training where the processor multiplies bf16 matrices in hardware (Intel AMX).
    """
    if precision == "auto":
        if device.type == "cpu":
            # torch 2.11 has no public name for it.
            return torch.bfloat16 if training and torch.cpu._is_amx_tile_supported() else None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if precision == "fp16" and device.type == "cpu":
        raise UserError("train.precision fp16 needs a CUDA device: use float32 or bf16 on the CPU")
    return {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def autocast(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager:
    """A context of mixed precision in ``dtype``; of nothing for None."""
    return torch.autocast(device.type, dtype=dtype) if dtype else nullcontext()
