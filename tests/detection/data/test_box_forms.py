"""Boxes in another form than x, y, width, height in pixels are refused or noted, sound ones never."""

from collections.abc import Callable
from pathlib import Path

import pytest

from detection.data.coco import load_annotations
from detection.data.faults import DataError, DataFault
from tests.detection.data.coco_files import read, sound


def corners(x: float, y: float, w: float, h: float) -> list[float]:
    return [x, y, x + w, y + h]


def centers(x: float, y: float, w: float, h: float) -> list[float]:
    return [x + w / 2, y + h / 2, w, h]


def boxes(form: Callable[..., list[float]], scale: tuple[float, float] = (1, 1), size: int | None = 200) -> dict:
    """Thirty boxes all over three images."""
    data = sound()
    data["annotations"] = []
    for image in data["images"]:
        image["width"] = size
        for row in range(10):
            x, y, w, h = form(6.5 + 15 * row, 3.5 + 6 * ((row * 7) % 10), 40, 38)
            box = [x / scale[0], y / scale[1], w / scale[0], h / scale[1]]
            data["annotations"].append({"image_id": image["id"], "category_id": 1, "bbox": box})
    return data


DOUBTS = {
    "corners": (boxes(corners), "has boxes that look like x1, y1, x2, y2 ("),
    "fractions": (boxes(lambda *box: list(box), (200, 100)), "look like fractions of the image (30 of 30 have"),
    "fractions of no size": (boxes(lambda *box: list(box), (200, 100), None), "look like fractions of the image (30"),
    "YOLO's": (boxes(centers, (200, 100)), "look like fractions of the image (30 of 30 have no value above 1)"),
    "fractions as corners": (boxes(corners, (200, 100)), "look like fractions of the image"),
    "centers": (boxes(centers), "has boxes that look like the center and size ("),
    "y, x": (boxes(lambda x, y, w, h: [y, x, h, w]), "boxes wholly outside their image"),
}


@pytest.mark.parametrize("case", DOUBTS)
def test_boxes_of_another_form_are_refused(folder: Path, case: str) -> None:
    content, expected = DOUBTS[case]
    faults: list[DataFault] = []
    with pytest.raises(DataError) as error:
        read(folder, content, faults=faults)
    assert expected in str(error.value)
    assert len(error.value.faults) == 1


@pytest.mark.parametrize(("most", "size"), [(100, (400, 300)), (1000, (4000, 3000))])
def test_percent_and_thousandths_are_noted(folder: Path, most: int, size: tuple[int, int]) -> None:
    data = boxes(lambda *box: list(box), (200 / most, 100 / most))
    for image in data["images"]:
        image["width"], image["height"] = size
    assert f"30 boxes that all end before x = y = {most} (are they" in read(folder, data).describe()


def test_sound_boxes_of_all_kinds_are_not(folder: Path, shared: Path) -> None:
    read(folder, boxes(lambda *box: list(box)))
    crooked = sound()  # drawn over the border
    for entry in crooked["annotations"]:
        entry["bbox"] = [-3, -2, 150, 108]
    assert read(folder, crooked).counts == {
        "boxes partly outside their image clipped": 12,
        "boxes that repeat another of their image and class (each counts as an object to be found)": 6,
        "areas that are larger than the box, almost zero or all alike (APs, APm and APl go by them)": 12,
    }
    for name in ("bccd", "coco_subset", "coco_ccby"):
        for file in (shared / "data" / name / "annotations").glob("*.json"):
            assert "are they" not in load_annotations(file, None).describe()
