from pathlib import Path

import cv2
import pytest

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("members", [1, 2, 4])
def test_picture_is_legible_in_size_and_small_in_bytes(tmp_path: Path, members: int) -> None:
    from detection.architecture_picture import draw_architecture

    path = tmp_path / "architecture.png"
    draw_architecture("resnet50", members, path)
    assert cv2.imread(str(path)).shape[1] == 1600
    assert path.stat().st_size < 200_000
