"""Whether a tool took an input or refused it as it should: with one clear line, soon, and without touching anything."""

from __future__ import annotations

import io
import math
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detection.data.faults import DataError
from divdet.engine.errors import UserError

HANG = 10.0  # seconds; what goes on for three times as long is stopped
# What OpenCV's own libraries print of a damaged image, which no setting of theirs silences.
_CHATTER = re.compile(rb"libpng (error|warning): .*\n|.*JPEG.*\n|TIFF.*\n|.*: Warning, .*\n|Warning: unknown JFIF.*\n")
# Python's audit events of what no reader of files has to do
_FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen"),
    *("os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "shutil."),
    *("socket.", "urllib.", "pickle.find_class", "code.__new__"),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        end: accepted; refused (one clear line); or fault, which must not be.
        text: the line of the refusal, or what is wrong.
        seconds: that it took.
        chatter: whether a library of OpenCV's printed something too.
    """

    end: Literal["accepted", "refused", "fault"]
    text: str
    seconds: float
    chatter: bool = False


class _Hang(BaseException):
    pass


class _Watch:
    """Notes forbidden events while it is on; hooks cannot be removed, so there is one for the process."""

    def __init__(self) -> None:
        self.output: str | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.output is None:
            return
        if event == "open" and isinstance(arguments[0], str | bytes):
            path, flags = os.path.realpath(os.fsdecode(arguments[0])), arguments[2]
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and path != os.devnull
            outside = "outside" in os.path.basename(path) and os.path.exists(path)
            if (writes and not path.startswith(self.output)) or outside:
                self.seen.append(f"opened {path}")
        elif event == "os.mkdir" and not os.path.realpath(os.fsdecode(arguments[0])).startswith(self.output):
            self.seen.append(f"{event} {arguments[0]}")
        elif event.startswith(_FORBIDDEN) and not str(arguments[0] if arguments else "").startswith(self.output):
            self.seen.append(f"{event} {arguments}"[:300])


_watch = _Watch()


@contextmanager
def _streams() -> Iterator[Any]:
    """A file that gets all that is written to stderr, by C code too; stdout goes nowhere, but must be encodable."""
    with tempfile.TemporaryFile() as file, io.TextIOWrapper(io.BytesIO(), encoding="utf-8") as text:
        sys.stderr.flush()
        kept, stdout, stderr = os.dup(2), sys.stdout, sys.stderr
        os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = text, open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        try:
            yield file
        finally:
            sys.stderr.flush()
            sys.stdout, sys.stderr = stdout, stderr
            os.dup2(kept, 2)
            os.close(kept)


@contextmanager
def _alarm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise _Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 3 * HANG, HANG)  # again, where a handler of any exception took the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(read: Callable[[], object], names: Sequence[str], output: Path, most_seconds: float = math.inf) -> Outcome:
    """Runs ``read``, which takes the input or raises: one clear line, or a list of the data's faults.

    Args:
        read: the tool's own functions on one case.
        names: a refusal's line must hold one of them: the file, or the keys.
        output: the only folder that may be written to.
        most_seconds: a case that takes longer is a fault.
    """
    fault = ""
    end: Literal["accepted", "refused", "fault"] = "accepted"
    text = ""
    _watch.seen.clear()
    compiles, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # of what a case is the first to import
    with _streams() as printed, warnings.catch_warnings():
        warnings.simplefilter("always")
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)  # Python's default
        warnings.filterwarnings("ignore", "This DataLoader will create")  # says why it is slow, which is no refusal
        began = time.perf_counter()
        try:
            with _alarm():
                _watch.output = os.path.realpath(output)
                read()
        except UserError as error:
            end, text = "refused", str(error)
            shown = text.split("\n")
            if (len(shown) > 1 and not isinstance(error, DataError)) or len(shown) > 12 or len(text) > 8_000:
                fault = f"too many shown: {text[:2000]!r}"
            elif not all(line and line.isprintable() for line in shown):
                fault = f"not one printable line: {text[:2000]!r}"
            elif not any(name in text for name in names):
                fault = f"neither the file nor a key is named: {text!r}"
        except SystemExit as stop:
            fault = f"exit code {stop.code}" if stop.code else ""
        except _Hang:
            fault = f"stopped after {3 * HANG:g} s"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            place = traceback.extract_tb(error.__traceback__)
            own = [f"{frame.filename}:{frame.lineno}" for frame in place if "site-packages" not in frame.filename]
            fault = f"{type(error).__name__}: {str(error)[:300]!r} at {own[-1]} in {place[-1].filename}"
        finally:
            _watch.output = None
            sys.dont_write_bytecode = compiles
        seconds = time.perf_counter() - began
        sys.stderr.flush()
        printed.seek(0)
        lines = printed.read()
    rest = _CHATTER.sub(b"", lines)
    fault = fault or "".join(_watch.seen[:1]) or (f"printed {rest[:300]!r}" if rest.strip() else "")
    fault = fault or (f"took {seconds:.1f} s" if seconds > most_seconds else "")
    return Outcome("fault" if fault else end, fault or text, seconds, rest != lines)
