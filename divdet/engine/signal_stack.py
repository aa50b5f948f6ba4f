"""The memory on which this thread's signal handlers run."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))  # Linux's stack_t


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Restores the thread's signal stack after code that may set up another one.

    Each compiled model of OpenVINO's CPU plugin sets one and unmaps it when it is deleted. If the models are not
    deleted in reverse order, a stack that no longer exists stays in use, and the next signal that Python handles, such
    as the end of a child process, kills the process without a message.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    sigaltstack, before = ctypes.CDLL(None).sigaltstack, _Stack()
    sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        sigaltstack(ctypes.byref(before), None)  # fails if it has become too small; then the new one stays
