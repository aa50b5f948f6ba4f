"""The notebooks in examples/ run from top to bottom, in a folder of their own, and come to results."""

import json
import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.processes import ROOT, environment


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder; the commands of this environment are found, as where one is activated."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name, value in environment(PATH=programs, PYDEVD_DISABLE_FILE_VALIDATION="1").items():
        monkeypatch.setenv(name, value)
    return tmp_path


def run(name: str, folder: Path, epochs: str = "") -> str:
    """Runs a notebook in ``folder`` and returns all that it printed; an error in a cell is one here.

    Args:
        epochs: the words that set them, which are made two to save time; as written where not given.
    """
    notebook = nbformat.read(ROOT / "examples" / name, as_version=4)
    if epochs:
        assert any(epochs in cell.source for cell in notebook.cells)
        for cell in notebook.cells:
            cell.source = cell.source.replace(epochs, '"epochs": 2, "evaluate_every": 2')
    assert not any(cell.get("outputs") for cell in notebook.cells), f"{name} was saved with outputs: clear them"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    return "".join(output.get("text", "") for output in outputs).replace("\r\n", "\n")  # a terminal's, of ! lines


def test_own_data(here: Path) -> None:
    printed = run("own_data.ipynb", here)
    assert "training: coins/data.yaml\n  images: 24 (0 without objects)" in printed  # a failed ! line is no error
    metrics = json.loads((here / "runs/coins/eval/metrics.json").read_text())
    assert metrics["AP"] > 0.2
    assert f"fused      AP {metrics['AP']:.3f}" in printed
    written = {file.name for file in (here / "runs/coins").iterdir()}
    assert {"report.html", "metrics.csv", "best.pt", "detector.pt2"} < written


def test_fuse_any_detectors(here: Path) -> None:
    printed = run("fuse_any_detectors.ipynb", here, epochs='"epochs": 6, "evaluate_every": 6')
    fused = json.loads((here / "results/fused/metrics.json").read_text())
    equal = json.loads((here / "results/equal/metrics.json").read_text())
    assert fused["AP"] == pytest.approx(equal["AP"], abs=1e-3)  # live and from files
    assert equal["AP"] > min(member["AP"] for member in equal["members"])
    assert json.loads((here / "results/equal/fused.json").read_text())
    assert f"equal weights  AP {equal['AP']:.3f}" in printed
