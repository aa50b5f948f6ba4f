"""OpenMP's threads: as many as a container may use, and beside other programs they spin for a short time only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from divdet.engine import tuning


@pytest.mark.parametrize(("running", "taken"), [(1, False), (2, True), (9, True)])
def test_another_running_program_takes_a_core(
    running: int, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: len(os.sched_getaffinity(0)))
    (tmp_path / "loadavg").write_text(f"0.50 0.40 0.30 {running}/321 12345\n")
    assert tuning.cores_are_taken(tmp_path / "loadavg") is taken
    monkeypatch.setattr(os, "cpu_count", lambda: len(os.sched_getaffinity(0)) + running)  # there are others for it
    assert not tuning.cores_are_taken(tmp_path / "loadavg")


def test_an_unknown_load_is_none(tmp_path: Path) -> None:
    assert not tuning.cores_are_taken(tmp_path / "none")


@pytest.mark.parametrize(
    ("given", "taken", "expected"),
    [
        ({}, True, {"GOMP_SPINCOUNT": "10000"}),
        ({}, False, {}),
        ({"GOMP_SPINCOUNT": "7"}, True, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, True, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_the_users_own_setting_stays(
    given: dict[str, str], taken: bool, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tuning, "cores_are_taken", lambda: taken)
    tuning.settle_waiting()
    assert {name: os.environ[name] for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if name in os.environ} == expected


def test_no_more_threads_than_a_container_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"OMP_NUM_THREADS": "2"}  # the user's own
    monkeypatch.setattr(os, "environ", variables)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for number in (8, 3):
        monkeypatch.setattr(tuning, "cores", lambda number=number: number)
        tuning.limit_threads()
        assert variables == {"OMP_NUM_THREADS": "2"} | ({} if number == 8 else {"OPENCV_FOR_THREADS_NUM": "3"})


@pytest.mark.parametrize("name", ["train-det", "eval-det", "detect", "train-cls", "eval-cls", "benchmark"])
def test_a_command_settles_it_before_torch_is_loaded(name: str) -> None:
    code = f"""
import sys
import divdet.commands
def settle():
    print("torch" in sys.modules)
divdet.commands.settle_waiting = settle
divdet.commands.main("{name}", ["--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "False"
