"""Command lines in processes of their own, alone or under torchrun."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def command(
    tool: str, *arguments: object, processes: int = 1, torchrun: tuple[str, ...] = (), double: bool = False
) -> list[str]:
    """The words of a command line of tools/; of torchrun where there are several processes, or options for it.

    ``double`` computes in float64.
    """
    words = [str(ROOT / "tests/double.py")] * double + [str(ROOT / "tools" / tool), *map(str, arguments)]
    if processes > 1 or torchrun:
        options = ["--standalone", f"--nproc_per_node={processes}", *torchrun]
        words = ["-m", "torch.distributed.run", *options, *words]
    return [sys.executable, *words]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment for a child: one thread, and ``variables``."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | variables


def run(tool: str, *arguments: object, **options: Any) -> str:
    """Runs a ``command`` to its end and returns what it printed; its failure is an AssertionError with its output."""
    words = command(tool, *arguments, **options)
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def column(folder: Path, name: str) -> list[float]:
    """A number of every line of a run's metrics.jsonl."""
    return [json.loads(line)[name] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def end_after_error(words: list[str], limit: float = 10, **variables: str) -> tuple[int, str, float]:
    """Runs a command line that is to fail, until it and all processes that it started have ended.

    What still runs ``limit`` seconds after the first line that begins with "error: " is killed; so is what has not
    printed one within three minutes.

    Returns:
        The exit code, what was printed, and the seconds from the first error to the end: infinite where there was no
        error or something was killed.
    """
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    began, process = time.monotonic(), subprocess.Popen(words, env=environment(**variables), **streams)
    lines: list[str] = []
    errors: list[float] = []

    def read() -> None:
        for line in process.stdout:  # ends with the last process that may write there
            lines.append(line)
            if line.startswith("error: "):
                errors.append(time.monotonic())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while reader.is_alive() and time.monotonic() < (errors[0] + limit if errors else began + 180):
        reader.join(0.02)
    took = math.inf if reader.is_alive() or not errors else time.monotonic() - errors[0]
    for pid in reversed(_with_children(process.pid)):
        os.kill(pid, signal.SIGKILL)
    reader.join(10)
    return process.wait(), "".join(lines), took


def _with_children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    children = map(int, path.read_text().split()) if path.exists() else []
    return [pid, *(found for child in children for found in _with_children(child))]
