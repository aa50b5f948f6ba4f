"""What figures were measured on."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from divdet.engine.limits import cores


def machine(*packages: str) -> dict[str, Any]:
    """Processor, cores and versions of torch, torchvision, Python and further ``packages``."""
    processor = platform.processor()
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        processor = names[0].split(": ")[1] if names else processor
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cpu": processor,
        "cores": cores(),
        **{package: version(package) for package in ("torch", "torchvision", *packages)},
        "python": platform.python_version(),
    }


def describe(found: dict[str, Any]) -> str:
    """``machine()`` as a line of text."""
    return ", ".join(f"{name} {value}" for name, value in found.items() if value)
