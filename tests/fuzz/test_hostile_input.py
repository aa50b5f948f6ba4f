"""Hostile input is taken, or refused with one clear line that names it; benchmarks/fuzz.py runs the same at length."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from divdet.engine.errors import UserError
from tests.fuzz.judging import judge
from tests.fuzz.kinds import KINDS

# Few, since each takes up to a second on a busy core; the same ones every time.
QUICK = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("name", KINDS)
def test_hostile_input_is_taken_or_refused_with_one_line(name: str, tmp_path: Path) -> None:
    kind = KINDS[name](tmp_path)

    @QUICK
    @given(st.randoms(use_true_random=False))
    def cases_are_taken_or_refused(draw: Random) -> None:
        kind.write(draw)
        outcome = judge(kind.read, kind.names, tmp_path / "output")
        assert outcome.end != "fault", outcome.text

    cases_are_taken_or_refused()


def _refuse(text: str) -> Callable[[], None]:
    def read() -> None:
        raise UserError(text)

    return read


def _write(path: Path) -> Callable[[], object]:
    return lambda: path.write_text("x")


def test_the_judge_finds_what_it_is_for(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    (tmp_path / "outside.png").write_bytes(b"x")
    faults: dict[str, Callable[[], object]] = {
        "ValueError": lambda: int("x"),
        "RecursionError": _recurse,
        "neither the file nor a key is named": _refuse("something is wrong"),
        "exit code 3": lambda: sys.exit(3),
        "printed": lambda: _complain("warning"),
        "opened": _write(tmp_path / "elsewhere"),
        "outside.png": lambda: (tmp_path / "outside.png").read_bytes(),
        "subprocess.Popen": lambda: subprocess.run(["true"], check=True),
    }
    for expected, read in faults.items():
        outcome = judge(read, ["case.png"], output)
        assert outcome.end == "fault", expected
        assert expected in outcome.text
    assert judge(_refuse("case.png: no"), ["case.png"], output).end == "refused"
    assert judge(_write(output / "a"), ["case.png"], output).end == "accepted"


def _recurse() -> None:
    _recurse()


def _complain(text: str) -> None:
    print(text, file=sys.stderr)
