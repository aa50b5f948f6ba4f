"""Coverage-guided fuzzing with atheris (pip install atheris), by hand; benchmarks/fuzz.py needs no such package.

    python benchmarks/fuzz_guided.py annotations -max_total_time=120
    python benchmarks/fuzz_guided.py images corpus/ -max_len=4096

The first word is a kind of benchmarks/fuzz.py that reads one file; the others are libFuzzer's. The corpus starts from
that kind's own cases, in a temporary folder unless one is named; a fault ends the run and is printed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from random import Random

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import atheris

# Python code is traced where it is imported here; C code (OpenCV, torch) is not.
with atheris.instrument_imports(include=["detection", "classification", "divdet", "zipfile", "numpy.lib", "json"]):
    from tests.fuzz.judging import HANG, judge
    from tests.fuzz.kinds import KINDS

SEEDS = 200
ONE_FILE = [name for name in KINDS if name not in ("folder", "commands")]


def main() -> None:
    """Runs one kind until libFuzzer's limits or a fault."""
    if len(sys.argv) < 2 or sys.argv[1] not in ONE_FILE:
        sys.exit(f"{__doc__}\nkinds: {', '.join(ONE_FILE)}")
    name, words = sys.argv[1], sys.argv[2:]
    root = Path(tempfile.mkdtemp())
    kind = KINDS[name](root)
    corpus = next((Path(word) for word in words if not word.startswith("-")), root / "corpus")
    corpus.mkdir(parents=True, exist_ok=True)
    for number in range(SEEDS):
        kind.write(Random(number))
        (corpus / f"{number}").write_bytes(kind.path.read_bytes())

    def one(data: bytes) -> None:
        kind.path.write_bytes(data)
        outcome = judge(kind.read, kind.names, root / "output", HANG)
        if outcome.end == "fault":
            raise AssertionError(outcome.text)

    options = [word for word in words if word.startswith("-")]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
