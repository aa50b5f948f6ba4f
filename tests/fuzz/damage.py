"""Files as bad disks and broken transfers leave them, and whether what is read of one is what was written."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch

from divdet.engine import checkpoint
from divdet.engine.errors import UserError

KINDS = ("bit", "zeros", "cut", "twice", "lost", "swapped")


def damage(draw: Random, data: bytes, kind: str) -> bytes:
    """``data`` with one damage: a flipped bit, a block that is zero, missing, there twice or another's, or the end cut.

    Half of them are near the end, where an archive has its directory.
    """
    at = draw.randrange(len(data)) if draw.randrange(2) else len(data) - 1 - draw.randrange(min(len(data), 4096))
    size = draw.choice((1, 8, 64, 512, 4096))
    changed = bytearray(data)
    match kind:
        case "bit":
            changed[at] ^= 1 << draw.randrange(8)
        case "zeros":
            changed[at : at + size] = bytes(len(changed[at : at + size]))
        case "cut":
            del changed[at:]
        case "twice":
            changed[at:at] = changed[at : at + size]
        case "lost":
            del changed[at : at + size]
        case "swapped":
            other = draw.randrange(len(data))
            changed[at : at + size] = data[other : other + len(changed[at : at + size])]
    return bytes(changed)


def judge_damage(path: Path, written: checkpoint.Checkpoint) -> str:
    """``refused`` (with one line), ``equal`` (to what was written, bit for bit), or ``wrong``."""
    try:
        return "equal" if equal(checkpoint.load(path).entries(), written.entries()) else "wrong"
    except UserError as error:
        return "refused" if path.name in str(error) else "wrong"


def equal(one: Any, other: Any) -> bool:
    """Whether two trees of tensors and plain values are the same bit for bit."""
    if isinstance(one, torch.Tensor):
        alike = isinstance(other, torch.Tensor) and (one.dtype, one.shape) == (other.dtype, other.shape)
        return alike and one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()
    if isinstance(one, dict):
        alike = isinstance(other, dict) and list(one) == list(other)
        return alike and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        alike = isinstance(other, list) and len(one) == len(other)
        return alike and all(map(equal, one, other))
    return type(one) is type(other) and repr(one) == repr(other)
