"""Hostile input: mutated and damaged files of every kind, read in one process by what the tools read them with.

    python benchmarks/fuzz.py                          # every kind, 10,000 cases each
    python benchmarks/fuzz.py images --cases 1000 --seed 7
    python benchmarks/fuzz.py images --only 4711 --keep /tmp/case

Prints a line per kind: cases, how many were accepted, how many refused with one clear line, the faults (anything else:
another exception, more than a line, a line that names neither file nor key, something else on stderr, a case of more
than 10 s, a file opened for writing outside the output folder or read outside the data, a process, a socket), the
slowest case, and the most memory the process had. Exit code 1 where there is a fault; the first ones are printed with
their numbers, for --only.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.fuzz.judging import HANG, Outcome, judge
from tests.fuzz.kinds import KINDS


def run(name: str, numbers: range, seed: int, root: Path) -> list[tuple[int, Outcome]]:
    """The outcomes of a kind's cases; each is decided by its number and ``seed`` alone."""
    kind = KINDS[name](root)
    outcomes = []
    for number in numbers:
        kind.write(Random(f"{seed} {name} {number}"))
        outcomes.append((number, judge(kind.read, kind.names, root / "output", HANG)))
    return outcomes


def main() -> None:
    """Runs the kinds that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], help="default: all")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the one case of this number")
    parser.add_argument("--keep", type=Path, help="a new folder to leave the last case's files in")
    arguments = parser.parse_args()
    numbers = range(arguments.cases) if arguments.only is None else range(arguments.only, arguments.only + 1)
    faulty = False
    began = time.perf_counter()
    for name in arguments.kinds or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) if arguments.keep is None else arguments.keep / name
            root.mkdir(parents=True, exist_ok=True)
            started = time.perf_counter()
            outcomes = run(name, numbers, arguments.seed, root)
        seconds = time.perf_counter() - started
        ends = Counter(outcome.end for _, outcome in outcomes)
        slowest, which = max((outcome.seconds, number) for number, outcome in outcomes)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        chatter = sum(outcome.chatter for _, outcome in outcomes)
        print(
            f"{name}: {len(outcomes):,} cases in {seconds:.0f} s: {ends['accepted']} accepted, {ends['refused']} "
            f"refused, {ends['fault']} faults; slowest {slowest:.2f} s (case {which}); at most {memory:.1f} GiB"
            + (f"; a library of OpenCV's printed a line in {chatter}" if chatter else ""),
            flush=True,
        )
        faults: dict[str, list[int]] = {}
        for number, outcome in outcomes:
            if outcome.end == "fault":
                faults.setdefault(outcome.text, []).append(number)
        for text, found in list(faults.items())[:20]:
            print(f"  case {found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''}: {text}")
        if arguments.only is not None:
            print(f"  {outcomes[0][1]}")
        faulty |= bool(faults)
    print(f"{time.perf_counter() - began:.0f} s in total")
    sys.exit(1 if faulty else 0)


if __name__ == "__main__":
    main()
