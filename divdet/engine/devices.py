"""Devices and precisions."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from divdet.engine.errors import UserError
from divdet.engine.settings import Precision

_DTYPES = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str, flag: str = "--device") -> torch.device:
    """The device ``auto`` (CUDA if there is one), ``cpu``, ``cuda``, ``cuda:N`` or ``N``.

    Raises:
        UserError: naming ``flag``, where the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(f"cuda:{name}" if name.isdecimal() else name)  # ultralytics' way of naming a GPU
    except RuntimeError:
        several = "; several devices: torchrun --nproc_per_node=N …" if "," in name else ""
        raise UserError(f"{flag} {name}: unknown; use auto, cpu, cuda or cuda:N{several}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"{flag} {name}: this machine has {torch.cuda.device_count()} CUDA devices; use auto or cpu")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"{flag} {name}: not supported; use auto, cpu, cuda or cuda:N")
    return device


def use_device(name: str) -> torch.device:
    """`resolve_device`; also makes a numbered CUDA device current.

    Otherwise code that names no device, such as pinned memory, would also use the first GPU.
    """
    device = resolve_device(name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


@contextmanager
def tuned_convolutions(device: torch.device) -> Iterator[None]:
    """Turns on cuDNN's benchmark mode on CUDA: it pays off in training, where almost all batches have one shape."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def check_compiler(what: str) -> None:
    """Raises UserError, naming ``what``, where torch.compile would find no C++ compiler."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if not shutil.which(compiler):
        raise UserError(f"{what} needs a C++ compiler, and {compiler} is not there: install it, or set CXX")


def precision_dtype(precision: Precision, device: torch.device, training: bool = False) -> torch.dtype | None:
    """The autocast dtype, or None for plain float32."""
    return _DTYPES[resolve_precision(precision, device, training)]


def resolve_precision(precision: Precision, device: torch.device, training: bool = False) -> Precision:
    """Replaces ``auto``: float32 in evaluation; in training the fastest that the device supports in hardware.

    That is bf16, fp16 on older CUDA devices, and float32 on CPUs without AMX.
    """
    if precision != "auto":
        return precision
    if not training:
        return "float32"
    if device.type == "cpu":
        return "bf16" if torch.cpu._is_amx_tile_supported() else "float32"  # torch 2.11 has no public name
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def autocast(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager:
    """Mixed precision in ``dtype``; does nothing for None."""
    return torch.autocast(device.type, dtype=dtype) if dtype else nullcontext()
