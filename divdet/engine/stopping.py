"""Ctrl-C and SIGTERM in long work: the step or batch ends and is saved, and the process says how it ended."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A signal ended the run; what it had done is saved. Command lines exit with 128 + the signal's number."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Stopping:
    """What has been asked for so far.

    Attributes:
        signal: number of the first signal, 0 before it.
    """

    def __init__(self) -> None:
        self.signal, self._since, self._process = 0, 0.0, os.getpid()

    def _take(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # inherited by a forked process, where nothing would act on it
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        # Somebody asks again; a moment later it is the same wish that came twice, say of torchrun and its terminal.
        if self.signal and number == signal.SIGINT and time.monotonic() > self._since + 1:
            raise KeyboardInterrupt
        if not self.signal:
            self.signal, self._since = number, time.monotonic()


@contextmanager
def stop_on_signals() -> Iterator[Stopping]:
    """Notes signals instead of dying by them; a later Ctrl-C interrupts at once."""
    stopping = Stopping()
    before = {number: signal.signal(number, stopping._take) for number in SIGNALS}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
