"""Data loading in worker processes."""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from divdet.engine.concurrency import compute_on_one_thread

_SENDER_IS_KNOWN = hasattr(signal, "sigtimedwait")  # Linux


class Loader(DataLoader):
    """A DataLoader for a network on ``device``; ``options`` go to DataLoader.

    Its workers survive signals to all processes of a job (see ``start_worker``). They end with the loader's ``with``
    block, also on errors, and at the latest with this process.
    """

    def __init__(
        self, dataset: Dataset, batch_size: int | None, workers: int, device: torch.device, **options: Any
    ) -> None:
        if workers:
            tempfile.gettempdir()  # raises FileNotFoundError where there is none: batches would never come from workers
        super().__init__(
            dataset,
            batch_size,
            num_workers=workers,
            worker_init_fn=start_worker,
            pin_memory=device.type == "cuda",
            multiprocessing_context=_context() if workers else None,
            **options,
        )
        self._running: Any = None

    def __iter__(self) -> Iterator[Any]:
        # Workers start here and inherit the mask, so signals wait until start_worker has set up its handlers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM}) if _SENDER_IS_KNOWN else None
        try:
            self._running = super().__iter__()
        finally:
            if before is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._running

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *error: object) -> None:
        # After an error the traceback keeps the iterator alive. Once Python's garbage collector has closed the
        # workers' queues, torch would wait five seconds for each worker.
        if self.num_workers and self._running is not None:
            self._running._shutdown_workers()
        self._running = self._iterator = None


def _context() -> str | None:
    # Forked workers share memory such as cached images; Python 3.14's default would copy it. A method that the user
    # has set is kept.
    default = multiprocessing.get_all_start_methods()[0]
    return "fork" if sys.platform == "linux" and multiprocessing.get_start_method() == default else None


def start_worker(worker: int) -> None:
    """Sets up a data worker: one thread, and no end by signals; a DataLoader's ``worker_init_fn``.

    The parent needs its workers to finish a step and save. torchrun and terminals signal a process group, so workers
    leave it. systemd, SLURM and Docker signal every process of a job, so workers ignore SIGINT, and SIGTERM unless it
    comes from the parent, which sends it on exit and then waits for them. macOS does not tell the sender: there every
    SIGTERM ends a worker.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _SENDER_IS_KNOWN:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # for the thread that waits for it
        threading.Thread(target=_end_with_parent, daemon=True).start()
    compute_on_one_thread()


def _end_with_parent() -> None:
    """Ends this process on the parent's SIGTERM, or within a second of the parent's own end."""
    parent, reaper = multiprocessing.parent_process().pid, os.getppid()
    while os.getppid() == reaper:
        sent = signal.sigtimedwait({signal.SIGTERM}, 1)
        if sent and sent.si_pid == parent:
            break
    os._exit(0)
