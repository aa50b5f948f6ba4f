"""A trained classifier, made once for each process of the suite."""

from pathlib import Path

import pytest

from classification.training import train
from tests.classification.generated import write_npz
from tests.classification.recipes import recipe


@pytest.fixture(scope="session")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("data") / "images.npz")


@pytest.fixture(scope="session")
def trained(npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs, all augmentation and regularization on."""
    output = tmp_path_factory.mktemp("runs") / "two"
    train(recipe(npz, output, epochs=2))
    return output
