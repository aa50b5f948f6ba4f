"""The cores and the memory that are left to this process, in a container too. Nothing here imports torch."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_PROCESS, _MEMORY = Path("/proc/self"), Path("/proc/meminfo")
_GROUPS = Path("/sys/fs/cgroup")
_RECLAIMED = ("inactive_file", "active_file", "slab_reclaimable")  # caches, which the system drops for a process
_PREFIX = "total_"  # of version 1, with the groups below


def cores() -> int:
    """The cores that this process may use; a container's share of processor time is rounded up."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups("cpu"):
        words = _words(group / "cpu.max") or _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
        if words and words[0] not in ("max", "-1"):
            usable = min(usable, math.ceil(int(words[0]) / int(words[1])))
    return usable


def available_memory() -> float:
    """Bytes of memory and swap that may still be taken here; infinite where the system, unlike Linux, does not say."""
    machine = _numbers(_MEMORY)
    if "MemAvailable:" not in machine:
        return math.inf
    left = [machine["MemAvailable:"] * 1024]
    for group in _groups("memory"):
        limit = _words(group / "memory.max") or _words(group / "memory.limit_in_bytes")
        used = _words(group / "memory.current") or _words(group / "memory.usage_in_bytes")
        if limit and used and limit != ["max"]:
            caches = _numbers(group / "memory.stat")
            dropped = sum(caches.get(_PREFIX + name, caches.get(name, 0)) for name in _RECLAIMED)
            left.append(int(limit[0]) - int(used[0]) + dropped)
    return min(left) + machine.get("SwapFree:", 0) * 1024


def own_memory() -> int:
    """Bytes of data in memory that this process has; 0 where the system, unlike Linux, does not say."""
    return _numbers(_PROCESS / "status").get("RssAnon:", 0) * 1024


def _groups(controller: str) -> Iterator[Path]:
    """The control groups of this process and those around them, of version 2 and 1; some may not be visible here."""
    for line in _words(_PROCESS / "cgroup", "\n"):
        number, controllers, path = line.split(":", 2)
        if number == "0" or controller in controllers.split(","):
            root = _GROUPS if number == "0" else _GROUPS / controller
            group = Path(path.lstrip("/"))
            yield from (root / part for part in (group, *group.parents))


def _numbers(path: Path) -> dict[str, int]:
    """The numbers in lines like ``name 12``; empty for a file that is not there."""
    lines = [line.split() for line in _words(path, "\n")]
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def _words(path: Path, separator: str | None = None) -> list[str]:
    """The parts of a file; empty for one that is not there, as most are on most systems."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().split(separator)
    except OSError:
        return []
