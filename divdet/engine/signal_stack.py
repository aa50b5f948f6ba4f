"""The memory on which this thread's signal handlers run."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))  # Linux's stack_t


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """What runs inside may set up a signal stack of its own; the one from before is put back.

    OpenVINO's CPU plugin sets one for each of its instances and unmaps it with the instance. Unless instances end in
    the reverse order of their beginnings, a stack that is gone stays in force, and the next signal that Python handles,
    such as a child's end, kills the process without a word.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    sigaltstack, before = ctypes.CDLL(None).sigaltstack, _Stack()
    sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        sigaltstack(ctypes.byref(before), None)  # refused where it is too small by now; then the new one stays
