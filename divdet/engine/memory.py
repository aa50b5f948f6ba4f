"""The allocator's behaviour in long CPU work."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tells glibc's allocator to reuse freed memory instead of handing it back to the kernel.

    A step of training, like a pass of the network, allocates and frees the same large buffers again and again; by
    default each is mapped anew and its pages are faulted in anew. Call it early: threads that allocate for the first
    time after it, where none did before, share the main thread's memory; their own would go back to the kernel whenever
    64 MiB of it are free. Other allocators and systems are left alone.

    Returns:
        Whether the settings were taken.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_ARENA_MAX: 1}
    return mallopt is not None and all([mallopt(*setting) for setting in settings.items()])
