"""The images of the sound ground truth."""

from pathlib import Path

import pytest

from tests.detection.data.coco_files import NAMES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in NAMES:
        (tmp_path / "images" / name).touch()
    return tmp_path / "images"
