"""Turns faults of long runs into one line that says what to do."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from divdet.engine.errors import UserError

_MEMORY = ("DefaultCPUAllocator: not enough memory", "can't allocate memory", "CUDA out of memory")
_MEMORY += ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "Cuda failure 2 'out of memory'")
_MEMORY += ("Cuda failure 'out of memory'", "Failed to CUDA calloc", "Failed to CUDA host alloc")  # NCCL's
_SHARED_MEMORY = "unable to allocate shared memory"
# What gloo, NCCL and their store say.
_SILENT = ("Watchdog caught collective operation timeout", "Timed out", "wait timeout after", "Socket Timeout")
_SILENT += ("Application timeout caused pair closure", "processes have started within")
_ENDED = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
_ENDED += ("ncclRemoteError", "remote process exited", "NCCL communicator was aborted")
_NCCL_SHARED = ("creating shared memory segment", "attaching to shared memory segment")
_NCCL = ("NCCL error", "ncclSystemError", "unhandled system error", "ncclUnhandledCudaError", "unhandled cuda error")
# What they mean; the first match counts.
_PROCESSES = (
    (_SILENT, "another process of this run does not answer: it hangs or cannot be reached; see its output"),
    (_NCCL_SHARED, "NCCL has no room in /dev/shm: enlarge it (docker run --shm-size)"),
    (_ENDED, "another process of this run has ended: its message says why"),
    (("Duplicate GPU detected",), "two processes have the same GPU: start at most one for each"),
    (
        _NCCL,
        "NCCL, which connects the GPUs, has failed: set NCCL_DEBUG=INFO in the environment to see why (often a wrong "
        "network interface: set NCCL_SOCKET_IFNAME)",
    ),
)
_WORKER = "DataLoader worker (pid"
# Raised where a data worker dies while it hands over a batch; torch.distributed has errors of its own.
_HANDING_OVER = (ConnectionResetError, ConnectionRefusedError, EOFError)


@contextmanager
def explained(batch_size: int, workers: int | None, kept: str, section: str = "train.") -> Iterator[None]:
    """Turns lack of memory and the death of a data worker or another process into a UserError.

    Args:
        batch_size: images per batch.
        workers: processes that load data; None if no setting says how many.
        kept: a clause that says what is left of the run.
        section: prefix of these settings' names.
    """
    smaller = f"{section}batch_size (now {batch_size})"
    fewer = smaller if workers is None else f"{section}workers (now {workers})"
    try:
        yield
    except (MemoryError, RuntimeError, *_HANDING_OVER) as error:
        if getattr(error, "of_callback", False):  # the user's own code
            raise
        # First: DataLoader's handler would raise again, anywhere, when its next worker dies. Windows has none, and
        # DataLoader sets it in the main thread alone.
        if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        text = str(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(known in text for known in _MEMORY):
            accumulate = " (train.accumulate makes up for it)" if section else ""
            fault = f"out of memory: lower {smaller}{accumulate} or choose a smaller backbone"
        elif _SHARED_MEMORY in text:
            fault = f"/dev/shm, through which loaded images are handed over, is full: lower {fewer} or {smaller}, "
            fault += "or enlarge it (docker run --shm-size)"
        elif _WORKER in text or isinstance(error, _HANDING_OVER):
            fault = f"a process that loads data was killed, often for lack of memory: lower {fewer}"
        else:
            fault = process_fault(text)
        if fault is None:
            raise
        raise UserError(f"{fault}; {kept}") from error


def process_fault(text: str) -> str | None:
    """The meaning of an error of gloo, NCCL or their store; None for other errors."""
    return next((meaning for signs, meaning in _PROCESSES if any(sign in text for sign in signs)), None)
