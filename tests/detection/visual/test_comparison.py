"""The compared pictures of members and their fusion, drawn from known results."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detection.data.annotations import CocoAnnotations
from detection.data.coco import load_annotations
from detection.drawing import class_color, save_image
from detection.heads import Input
from detection.postprocess import Boxes
from detection.visual.comparison import draw_comparisons

WIDTH, HEIGHT, GREY = 480, 360, 90
BAR, GAP = round(WIDTH / 14), 6
TRUTH, FIRST, FUSED = (60, 100, 260, 300), (100, 120, 300, 320), (80, 110, 280, 310)


class KnownDetector:
    """Finds what it was given, whatever the image: boxes in pixels, scores and labels of each member, then fused."""

    names = ("disc", "square")
    input = Input()

    def __init__(self, *results: list[tuple[tuple[int, ...], float, int]]) -> None:
        self.results = [
            Boxes(
                torch.tensor([box for box, _, _ in found]).reshape(-1, 4)
                / torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]),
                torch.tensor([score for _, score, _ in found]),
                torch.tensor([label for _, _, label in found], dtype=torch.int64),
            )
            for found in results
        ]

    def detect(self, inputs: torch.Tensor) -> tuple[list[list[Boxes]], list[Boxes]]:
        assert inputs.shape == (1, 300, 300, 3)
        return [[found] for found in self.results[:-1]], [self.results[-1]]


@pytest.fixture
def annotations(tmp_path: Path) -> CocoAnnotations:
    """Four plain images in folders of their own, each with one object but the first, which has none."""
    images, objects = [], []
    for number in range(4):
        name = f"set{number}/photo.png"
        (tmp_path / name).parent.mkdir()
        save_image(tmp_path / name, np.full((HEIGHT, WIDTH, 3), GREY, np.uint8))
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        if number:
            x1, y1, x2, y2 = TRUTH
            box = [x1, y1, x2 - x1, y2 - y1]
            objects.append({"id": number, "image_id": number, "category_id": 2, "bbox": box, "area": 40_000})
    categories = [{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}]
    file = tmp_path / "truth.json"
    file.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    return load_annotations(file, str(tmp_path))


def panels(path: Path, count: int) -> list[np.ndarray]:
    """The ``count`` images side by side without their title bars, as they were saved."""
    picture = cv2.imread(str(path))[..., ::-1].astype(int)
    assert picture.shape == (HEIGHT + BAR, count * WIDTH + (count - 1) * GAP, 3)
    titles = [picture[:BAR, i * (WIDTH + GAP) :][:, :WIDTH] for i in range(count)]
    assert all((title.min(-1) > 180).sum() > 50 for title in titles)
    return [picture[BAR:, i * (WIDTH + GAP) :][:, :WIDTH] for i in range(count)]


def changed(panel: np.ndarray) -> np.ndarray:
    return np.abs(panel - GREY).max(-1) > 25  # more than JPEG's noise


def framed(panel: np.ndarray, box: tuple[int, ...]) -> bool:
    """Whether the box's sides below its label, and no others, are drawn."""
    x1, y1, x2, y2 = box
    inside = changed(panel)[y1 + 60 : y2 - 12, x1 + 12 : x2 - 12]
    sides = changed(panel)[y1 + 60 : y2, [x1, x2 - 1]], changed(panel)[y2 - 1, x1:x2]
    return all(side.mean() > 0.95 for side in sides) and not inside.any()


def colored(panel: np.ndarray, label: int) -> bool:
    return (np.abs(panel - class_color(label)).max(-1) < 30).sum() > 300  # a label's plate


def test_truth_members_and_fusion_stand_side_by_side(annotations: CocoAnnotations, tmp_path: Path) -> None:
    low = [((10, 20, 200, 340), 0.29, 0)]
    detector = KnownDetector([(FIRST, 0.9, 0), *low], low, [(FUSED, 0.45, 0)])
    written = draw_comparisons(detector, annotations, tmp_path / "pictures", count=2)
    assert written == [tmp_path / "pictures" / name for name in ("set1_photo.jpg", "set2_photo.jpg")]
    assert sorted(written) == sorted((tmp_path / "pictures").iterdir())
    for path in written:
        truth, first, second, fused = panels(path, 4)
        assert framed(truth, TRUTH)
        assert framed(first, FIRST)
        assert framed(fused, FUSED)
        assert not changed(second).any()  # its score is below the threshold
        assert [colored(panel, 0) for panel in (truth, first, fused)] == [False, True, True]
        assert [colored(panel, 1) for panel in (truth, first, fused)] == [True, False, False]


def test_a_single_member_has_no_fusion(annotations: CocoAnnotations, tmp_path: Path) -> None:
    detector = KnownDetector([(FIRST, 0.5, 0)], [(FUSED, 0.5, 0)])
    written = draw_comparisons(detector, annotations, tmp_path / "pictures", count=9, score_threshold=0.5)
    assert len(written) == 3
    truth, first = panels(written[0], 2)
    assert framed(truth, TRUTH)
    assert framed(first, FIRST)
