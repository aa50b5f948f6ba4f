"""The allocator's behaviour in long CPU work."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tells glibc's allocator to reuse freed memory instead of handing it back to the kernel.

    A step of training, like a pass of the network, allocates and frees the same large buffers again and again; by
    default each is mapped anew and its pages are faulted in anew. Other allocators and systems are left alone.

    Returns:
        Whether the setting was taken.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
