"""Command lines in processes of their own, alone or under torchrun."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from functools import cache
from pathlib import Path

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


@cache
def _forks() -> subprocess.Popen:
    """The process whose forks ``run`` uses; it ends with this one, since its input does."""
    words, streams = [sys.executable, ROOT / "tests/forks.py"], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(words, env=environment(), text=True, **streams)


def run(tool: str, *arguments: object, processes: int = 1, double: bool = False) -> str:
    """Runs a command line of tools/ to its end, in processes that find each other as torchrun's do.

    ``double`` computes in float64. Returns what was printed; a failure is an AssertionError with it.
    """
    words = command(tool, *arguments, double=double)[1:]
    environments = [environment()]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(free.getsockname()[1]),
                "TORCHELASTIC_RUN_ID": "none",
            }
        sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
        ranks = [dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)) for rank in range(processes)]
        environments = [environment(**place, **sizes, **rank) for rank in ranks]
    with tempfile.NamedTemporaryFile("r") as output:
        request = {"words": words, "environments": environments, "folder": os.getcwd(), "output": output.name}
        print(json.dumps(request), file=_forks().stdin, flush=True)
        answer = _forks().stdout.readline()
        assert answer, "the process of tests/forks.py has ended"
        codes = json.loads(answer)
        printed = output.read()
    assert not any(codes), f"exit codes {codes}\n{printed}"
    return printed


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
