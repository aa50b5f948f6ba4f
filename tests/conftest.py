"""Fixtures that every test package shares."""

import os
from pathlib import Path

import pytest

# Small tensors: a second thread costs more than it brings. Read by OpenMP when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference figures and real images, which is not part of the repository."""
    folder = Path(os.environ.get("DIVDET_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip(f"no reference data in {folder}: set DIVDET_SHARED to its folder")
    return folder
