"""What ground truth hardly means is kept and counted."""

from pathlib import Path

import pytest

from tests.detection.data.coco_files import read, sound

REPEATS = "boxes that repeat another of their image and class"
AREAS = "areas that are larger than the box, almost zero or all alike"


def counted(folder: Path, data: dict, what: str) -> int:
    return sum(count for text, count in read(folder, data).counts.items() if text.startswith(what))


def test_sound_data_has_nothing_doubtful(folder: Path) -> None:
    assert not read(folder, sound()).counts


def test_repeated_boxes_stay_and_are_counted(folder: Path) -> None:
    data = sound()
    copies = [entry | {"id": 100 + entry["id"]} for entry in data["annotations"][:3]]
    other_class = data["annotations"][0] | {"id": 200, "category_id": 2}
    data["annotations"] += [*copies, other_class]
    assert counted(folder, data, REPEATS) == 3
    assert len(read(folder, data).truth.bbox) == 16


@pytest.mark.parametrize("factor", [0, 1e-4, 1.3])
def test_areas_that_no_object_of_the_box_can_have(folder: Path, factor: float) -> None:
    data = sound()
    for entry in data["annotations"]:
        entry["area"] = entry["bbox"][2] * entry["bbox"][3]
    assert counted(folder, data, AREAS) == 0
    data["annotations"][4]["area"] *= factor
    assert counted(folder, data, AREAS) == 1


def test_one_area_for_boxes_of_all_sizes(folder: Path) -> None:
    data = sound()
    for entry in data["annotations"]:
        entry["area"] = 300
    assert counted(folder, data, AREAS) == 0  # the boxes are nearly alike
    data["annotations"][0]["bbox"] = [20, 15, 120, 60]
    assert counted(folder, data, AREAS) == 12
