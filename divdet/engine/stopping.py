"""Ctrl-C and SIGTERM in long work: the current step or batch is finished and saved first."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A signal ended the run after it was saved. Commands exit with 128 + the signal's number."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Stopping:
    """Notes signals.

    Attributes:
        signal: number of the first signal; 0 before it.
    """

    def __init__(self) -> None:
        self.signal, self._since, self._process = 0, 0.0, os.getpid()

    def _take(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # in a forked process nobody would read the note
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        # Within a second it is the same request twice, for example by torchrun and by its terminal.
        if self.signal and number == signal.SIGINT and time.monotonic() > self._since + 1:
            raise KeyboardInterrupt
        if not self.signal:
            self.signal, self._since = number, time.monotonic()


@contextmanager
def stop_on_signals() -> Iterator[Stopping]:
    """Notes signals instead of ending the process; a second Ctrl-C interrupts at once.

    In another thread than the main one, which alone gets signals, it does nothing: they stay the program's.
    """
    stopping = Stopping()
    numbers = SIGNALS if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, stopping._take) for number in numbers}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
