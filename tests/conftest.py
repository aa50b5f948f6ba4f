"""Fixtures that every test package shares."""

import os
from pathlib import Path

import pytest

# Small tensors: a second thread costs more than it brings. Read by OpenMP when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    """A test draws the same numbers whatever ran before it."""
    torch.manual_seed(0)


# Files of minutes. They begin first, or one process would work on the last of them alone.
_LONG = (
    *("test_distributed", "test_notebooks", "test_commands", "test_faults", "test_detect_processes", "test_exits"),
    *("test_exported", "test_site", "test_demo", "test_serve", "test_loggers", "test_cost", "test_throughput"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the long files first, in that order; the rest stays as it is."""
    place = {name: number for number, name in enumerate(_LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(_LONG)))


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Names a failure when it happens, not only at the end of a long run."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None:  # a worker's process: the main one reports
        return

    class NameFailures:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                terminal.write_line(f"\n{report.nodeid} {report.when}: {report.longreprtext[-2000:]}", red=True)

    config.pluginmanager.register(NameFailures())


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference figures and real images, which is not part of the repository.

    Skips where nobody named one and none lies beside the checkout; one that was named must be there.
    """
    named = os.environ.get("DIVDET_SHARED")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared"
    if (folder / "reference").is_dir():
        return folder
    if named:
        pytest.fail(f"DIVDET_SHARED is {named}: it holds no reference data")
    pytest.skip(f"no reference data in {folder}: set DIVDET_SHARED to its folder")
