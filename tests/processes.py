"""Command lines in processes of their own, alone or under torchrun."""

import json
import os
import subprocess
import sys
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
