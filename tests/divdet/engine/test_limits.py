"""The cores and the memory that control groups leave, of both versions, and their groups around."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from divdet.engine import limits
from divdet.engine.limits import available_memory, cores, own_memory

Files = dict[str, str]
# What Docker and Kubernetes show: the container's group is the root of what is mounted.
MEMORY_2 = {"memory.max": "3000000\n", "memory.current": "2500000\n"}
MEMORY_1 = {"memory/memory.limit_in_bytes": "3000000\n", "memory/memory.usage_in_bytes": "2500000\n"}
STAT_2 = {"memory.stat": "anon 7\ninactive_file 100000\nactive_file 200000\nslab_reclaimable 50000\nshmem 9\n"}
STAT_1 = {"memory/memory.stat": "inactive_file 1\ntotal_inactive_file 100000\ntotal_active_file 200000\n"}
NAME_1 = "4:memory:/docker/1f2e\n3:cpu,cpuacct:/docker/1f2e\n0::/docker/1f2e\n"
UNLIMITED = {"memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.usage_in_bytes": "2500000\n"}


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Files], None]:
    """Writes /proc and the control groups: 10,000 kB are free, and the process has 16 cores and 64 kB of data."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    for name, folder in (("_PROCESS", "self"), ("_MEMORY", "meminfo"), ("_GROUPS", "cgroup")):
        monkeypatch.setattr(limits, name, tmp_path / folder)

    def write(groups: str, files: Files) -> None:
        proc = {"meminfo": "MemTotal: 12000 kB\nMemAvailable: 10000 kB\nSwapFree: 0 kB\nHugePages_Free:    0\n"}
        proc |= {"self/status": "Name:\tdæmon\nVmRSS:\t  128 kB\nRssAnon:\t  64 kB\n", "self/cgroup": groups}
        for name, text in (proc | {f"cgroup/{name}": text for name, text in files.items()}).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="latin-1")  # a name of a process may be cut within a letter

    return write


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {}, 10_240_000),
        ("0::/\n", MEMORY_2, 500_000),
        ("0::/\n", MEMORY_2 | STAT_2, 850_000),
        ("0::/\n", MEMORY_2 | {"memory.max": "max\n"}, 10_240_000),
        ("0::/kube/pod\n", {f"kube/{name}": text for name, text in MEMORY_2.items()}, 500_000),  # of the group around
        (NAME_1, MEMORY_1, 500_000),
        (NAME_1, MEMORY_1 | STAT_1, 800_000),
        (NAME_1, UNLIMITED, 10_240_000),
        ("0::/a:b\n", {f"a:b/{name}": text for name, text in MEMORY_2.items()}, 500_000),
    ],
)
def test_memory(groups: str, files: Files, expected: int, system: Callable[[str, Files], None]) -> None:
    system(groups, files)
    assert available_memory() == expected
    assert own_memory() == 65_536


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/slurm/job\n", {"slurm/cpu.max": "400000 100000\n", "slurm/job/cpu.max": "max 100000\n"}, 4),
        (NAME_1, {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        (NAME_1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
    ],
)
def test_cores(groups: str, files: Files, expected: int, system: Callable[[str, Files], None]) -> None:
    system(groups, files)
    assert cores() == expected


def test_a_system_that_says_nothing(system: Callable[[str, Files], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS and Windows."""
    monkeypatch.delattr(os, "sched_getaffinity")
    assert (available_memory(), own_memory(), cores()) == (math.inf, 0, os.cpu_count())
