from pathlib import Path

import cv2
import numpy as np
import pytest

from detection.models.cost import summarize

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes

from docs.architecture_picture import draw_architecture


def filled_parts(picture: np.ndarray) -> list[np.ndarray]:
    """The parts of the picture around each large area of one colour, white apart."""
    colour = picture.astype(np.int32) @ (1, 256, 65536)
    values, counts = np.unique(colour, return_counts=True)
    parts = []
    for value in values[(counts > 5000) & (values != 0xFFFFFF)]:
        areas = cv2.connectedComponentsWithStats((colour == value).astype(np.uint8))[2]
        parts += [picture[y : y + h, x : x + w] for x, y, w, h, area in areas[1:] if area > 5000]
    return parts


@pytest.mark.parametrize("members", [1, 2, 4])
def test_picture_has_every_part_written_on_and_is_small(tmp_path: Path, members: int) -> None:
    path = tmp_path / "architecture.png"
    draw_architecture("resnet50", members, path)
    picture = cv2.imread(str(path))
    assert picture.shape[1] == 1600
    assert path.stat().st_size < 200_000
    parts = filled_parts(picture)
    assert len(parts) == 3 + 2 * members  # image, shared layers, result; each member and its suppression
    assert all((part.max(-1) < 100).sum() > 200 for part in parts)


@pytest.mark.parametrize("members", [1, 2])
def test_numbers_are_the_networks_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: int) -> None:
    written: list[str] = []
    draw = Axes.text
    monkeypatch.setattr(Axes, "text", lambda self, x, y, s, **style: written.append(s) or draw(self, x, y, s, **style))
    draw_architecture("resnet50", members, tmp_path / "architecture.png", num_classes=20)
    cost = summarize("resnet50", members, num_classes=20)
    own, shared, whole = (f"{cost[key] / 1e6:.2f} M" for key in ("params_per_member", "params_shared", "params"))
    assert written.count(f"{own} parameters") == members
    assert f"{shared} parameters · 8,732 default boxes" in written
    assert any(text.endswith(f": {whole} parameters") for text in written)
    assert [text for text in written if "×" in text] == [
        "3 × 300 × 300",
        "38×38",
        "19×19",
        "10×10",
        "5×5",
        "3×3",
        "1×1",
    ]
