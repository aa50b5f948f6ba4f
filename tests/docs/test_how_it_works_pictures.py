import math
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes

from docs.how_it_works_pictures import PICTURES, draw_co_training, draw_dividing, draw_fusion, draw_views

PAGE = Path(__file__).parents[2] / "docs/how_it_works.md"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are written into axes."""
    texts: list[str] = []

    def collect(name: str, position: int) -> None:
        draw = getattr(Axes, name)

        def wrapped(self: Axes, *arguments: object, **style: object) -> object:
            texts.append(str(style["s"] if "s" in style else arguments[position]))
            return draw(self, *arguments, **style)

        monkeypatch.setattr(Axes, name, wrapped)

    collect("text", 2)
    collect("annotate", 0)
    return texts


@pytest.mark.parametrize("name", PICTURES)
def test_page_shows_every_picture_and_they_are_small(name: str) -> None:
    path = PAGE.parent / "pictures" / name
    assert f"](pictures/{name})" in PAGE.read_text(encoding="utf-8")
    assert path.stat().st_size < 100_000
    assert (cv2.imread(str(path))[0, 0] == 255).all()  # white, also where the page is dark


@pytest.mark.parametrize(
    ("members", "inner", "own"),
    [(2, 44, 2 * 44 * 176 + 9 * 44**2), (4, 32, 2 * 32 * 128 + 9 * 32**2)],  # the paper's example has S=4
)
def test_dividing_has_the_networks_channels(
    tmp_path: Path, written: list[str], members: int, inner: int, own: int
) -> None:
    draw_dividing(tmp_path / "dividing.png", members=members)
    assert written.count("256 channels") == 1
    assert written.count(f"3×3, {inner}") == members
    assert written.count(f"1×1, {4 * inner}") == members
    assert written.count("69,632 parameters") == 1
    assert written.count(f"{own:,} parameters") == members
    assert any(text.endswith(f"{members} × {own:,} = {members * own:,}") for text in written)


def test_curve_is_ln_2_less_the_entropy(tmp_path: Path, written: list[str]) -> None:
    draw_co_training(tmp_path / "co_training.png")
    for p in (0.7, 0.9):
        divergence = math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p)
        assert f"{p} and {1 - p:.1f}: {divergence:.3f}" in written


def test_fusion_shows_the_scores_of_each_way(tmp_path: Path, written: list[str]) -> None:
    draw_fusion(tmp_path / "fusion.png")
    members, nms, avg, best = ["0.90", "0.60", "0.50"], ["0.90", "0.50"], ["0.75", "0.25"], ["0.90", "0.50"]
    assert written == [*members, *nms, *avg, *best]


def test_views_are_the_loaders(tmp_path: Path) -> None:
    draw_views(tmp_path / "views.jpg")
    paths = tmp_path / "views.jpg", PAGE.parent / "pictures/views.jpg"
    drawn, kept = (cv2.imread(str(path)).astype(int) for path in paths)
    assert drawn.shape == kept.shape
    assert np.abs(drawn - kept).mean() < 3  # fonts and JPEG differ by version
