"""Which file a name in COCO annotations means, and names that do not say it."""

import json
from pathlib import Path

import pytest

from detection.data.coco import load_annotations
from detection.data.faults import DataError
from tests.detection.data.coco_files import NAMES, each, read, renamed, sound


@pytest.mark.parametrize("name", ["/etc/{}", "../../up/{}", "..\\..\\up\\{}", "https://host/{}"])
def test_without_a_folder_any_name_will_do_and_none_leaves(tmp_path: Path, name: str) -> None:
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(renamed(name)()))
    found = load_annotations(path, None)
    assert found.counts == {}
    assert [image.path.name for image in found.images] == list(NAMES)
    assert not any(image.path.is_absolute() or ".." in image.path.parts for image in found.images)


def test_files_whose_name_has_the_prefix(folder: Path) -> None:
    for name in NAMES:
        (folder / name).rename(folder / f"a1b2c3d4-{name}")
    assert [image.path.name for image in read(folder, sound()).images] == [f"a1b2c3d4-{name}" for name in NAMES]


def test_a_file_in_the_folder_goes_before_one_in_a_subfolder(folder: Path) -> None:
    (folder / "thumbs").mkdir()
    (folder / "thumbs/a.jpg").touch()
    assert read(folder, renamed("images/{}")()).images[0].path == folder / "a.jpg"
    data = each("images", lambda entry: {"file_name": entry["file_name"].upper()})()
    assert read(folder, data).images[0].path == folder / "a.jpg"


AMBIGUOUS = {
    "two folders": (["x/1.jpg", "y/1.jpg"], ["1.jpg"], "'1.jpg', which is not in {}: 'x/1.jpg' and 'y/1.jpg' fit"),
    "two cases": (["1.JPG", "1.jpg"], ["1.Jpg"], "'1.JPG' and '1.jpg' fit"),
    "two names of one file": (["1.jpg"], ["x/1.jpg", "y/1.jpg"], "and an earlier image 'x/1.jpg': both fit '1.jpg'"),
    "two hashes": (["1.jpg"], ["a1b2c3d4-1.jpg", "1b2c3d4e-1.jpg"], "both fit '1.jpg'"),
    "another hash": (["ffffffff-1.jpg", "2.jpg"], ["a1b2c3d4-1.jpg", "2.jpg"], "'a1b2c3d4-1.jpg', which is not in"),
    "another folder": (["train/1.jpg", "2.jpg"], ["val/1.jpg", "2.jpg"], "is not in {} (but 'train/1.jpg' is)"),
    "outside": (["2.jpg"], ["../images2/1.jpg", "2.jpg"], "which leaves the image folder"),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_names_that_do_not_say_which_file(folder: Path, case: str) -> None:
    files, names, expected = AMBIGUOUS[case]
    (folder.parent / "images2").mkdir()
    (folder.parent / "images2/1.jpg").touch()
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).touch()
    data = {**sound(), "images": [{"id": i, "file_name": name} for i, name in enumerate(names)], "annotations": []}
    with pytest.raises(DataError) as error:
        read(folder, data)
    assert expected.format(folder) in str(error.value)
    assert len(error.value.faults) == 1
