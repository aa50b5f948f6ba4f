"""Process-wide settings of glibc's allocator and of OpenMP. Nothing here imports torch, which reads OpenMP's."""

import ctypes
import os
import sys
import time
from pathlib import Path

from divdet.engine.limits import cores

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # glibc's malloc.h
_LOOKS, _SECONDS = 5, 0.005


def keep_freed_memory() -> bool:
    """Makes glibc's allocator reuse freed memory instead of returning it to the kernel.

    Training and inference allocate and free the same large buffers again and again; by default each is mapped anew and
    its pages are faulted in anew. Call this before other threads allocate: it makes them share the main thread's arena.
    Does nothing with other allocators and systems.

    Returns:
        Whether the allocator accepted the settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_ARENA_MAX: 1}
    return mallopt is not None and all([mallopt(*setting) for setting in settings.items()])


def limit_threads() -> None:
    """Gives OpenMP and OpenCV one thread for each core that a container's share of processor time amounts to.

    They count the machine's cores, and more threads than the share has would stand still most of the time. The user's
    own environment variables win. Call this before torch and OpenCV are loaded.
    """
    if cores() < (os.cpu_count() or 1):
        for name in ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
            os.environ.setdefault(name, str(cores()))


def cores_are_taken(load: Path = Path("/proc/loadavg")) -> bool:
    """Whether other programs use cores that this one may use, sampled five times within 20 ms; False if unknown."""
    try:
        running = []
        for look in range(_LOOKS):
            time.sleep(_SECONDS * (look > 0))
            running.append(int(load.read_text().split()[3].partition("/")[0]) - 1)  # without this process
        usable = len(os.sched_getaffinity(0))
    except (OSError, AttributeError):  # not Linux
        return False
    return min(running) + usable > (os.cpu_count() or usable)


def settle_waiting() -> None:
    """Shortens the spinning of OpenMP's threads (libgomp's) where other programs need the cores.

    Idle OpenMP threads spin for longer than a time slice. That is fastest on an idle machine; beside other programs
    they block the core that a thread they wait for needs. The user's own environment variables win. Call this before
    torch is loaded.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys() and cores_are_taken():
        os.environ["GOMP_SPINCOUNT"] = "10000"
