"""What real tools write in COCO files: read as what it means and counted, or refused with what it probably is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask

from detection.data.faults import DataError, DataFault
from detection.data.repeated_files import merge_repeated
from divdet.engine.errors import UserError
from tests.detection.data.coco_files import NAMES, each, read, renamed, sound


def numbers(convert: Callable[[int], Any]) -> Callable[[], dict]:
    """The sound data with all its integers converted."""

    def change(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: change(item) for key, item in value.items()}
        if isinstance(value, list):
            return list(map(change, value))
        return convert(value) if isinstance(value, int) else value

    return lambda: change(sound())


def objects(part: str, key: str) -> Callable[[], dict]:
    """The sound data with a list as an object by id, or as an object of lists by the id of the image."""

    def changed() -> dict:
        data, groups = sound(), {}
        for entry in data[part]:
            groups.setdefault(str(entry.pop(key)), []).append(entry)
        data[part] = groups if key != "id" else {number: entries[0] for number, entries in groups.items()}
        return data

    return changed


def polygon(entry: dict) -> list[float]:
    x, y, w, h = entry.pop("bbox")
    return [x, y + h / 2, x + w / 2, y, x + w, y + h, x + 1, y + h - 1]


def run_lengths(entry: dict) -> np.ndarray:
    x, y, w, h = entry.pop("bbox")
    drawn = np.zeros((100, 200), np.uint8, order="F")
    drawn[y : y + h, x : x + w] = 1
    return drawn


def uncompressed(entry: dict) -> dict:
    flat = run_lengths(entry).reshape(-1, order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    return {"size": [100, 200], "counts": np.diff([0, *ends, flat.size]).tolist()}


def with_category(**category: Any) -> Callable[[], dict]:
    return lambda: {**sound(), "categories": [category, *sound()["categories"]]}


def under(parent: str) -> dict:
    data = sound()
    for category in data["categories"]:
        category["supercategory"] = parent
    data["categories"].append({"id": 0, "name": parent, "supercategory": "none"})
    return data


def listed_parents() -> dict:
    data = with_category(id=0, name="background")()
    return data | {"categories": [entry | {"supercategory": ["shapes"]} for entry in data["categories"]]}


READ = {
    "floats": (numbers(float), "17 entries with numbers written as text"),
    "text": (numbers(str), "17 entries with numbers written as text"),
    "text with a point": (numbers(lambda value: f"{value}.0"), "entries with numbers written as text"),
    "nulls": (each("annotations", lambda _: {"iscrowd": None, "segmentation": None}), "12 annotations of null iscrowd"),
    "null ids": (each("annotations", lambda _: {"id": None}), ""),
    "ids that are no numbers": (each("annotations", lambda entry: {"id": f"x{entry['id']}"}), ""),
    "size 0": (each("images", lambda _: {"width": 0, "height": -1}), "3 images of no usable width and height"),
    "broken size": (each("images", lambda _: {"width": 199.5}), "3 images of no usable width and height"),
    "NaN for a size": (each("images", lambda _: {"width": float("nan")}), "3 images of no usable width and height"),
    "null size": (each("images", lambda _: {"height": None}), "3 images of no usable width and height"),
    "a polygon": (each("annotations", lambda entry: {"segmentation": [polygon(entry)]}), "12 boxes computed from seg"),
    "a flat polygon": (each("annotations", lambda entry: {"segmentation": polygon(entry)}), "12 boxes computed from"),
    "points": (
        each("annotations", lambda entry: {"segmentation": np.reshape(polygon(entry), (1, -1, 2)).tolist()}),
        "12 boxes computed from segmentations",
    ),
    "a polygon and a null box": (
        each("annotations", lambda entry: {"segmentation": [polygon(entry)], "bbox": None}),
        "12 boxes computed from segmentations",
    ),
    "a mask": (each("annotations", lambda entry: {"segmentation": uncompressed(entry)}), "12 boxes computed from seg"),
    "a packed mask": (
        each(
            "annotations",
            lambda entry: {
                "segmentation": {"size": [100, 200], "counts": mask.encode(run_lengths(entry))["counts"].decode()}
            },
        ),
        "12 boxes computed from segmentations",
    ),
    "annotations by id": (objects("annotations", "id"), "1 lists written as objects by id"),
    "annotations by image": (objects("annotations", "image_id"), "1 lists written as objects by id"),
    "images by id": (objects("images", "id"), "1 lists written as objects by id"),
    "names by id": (lambda: {**sound(), "categories": {"1": "box", "2": "disc"}}, "1 lists written as objects by id"),
    "ids by name": (lambda: {**sound(), "categories": {"box": 1, "disc": 2}}, "1 lists written as objects by id"),
    "background": (with_category(id=0, name="__background__"), "1 categories without objects dropped as root or"),
    "Background": (with_category(id=7, name="Background"), "dropped as root or background ('Background')"),
    "lists of parents": (listed_parents, "dropped as root or background ('background')"),
    "root": (lambda: under("shapes"), "dropped as root or background ('shapes')"),
    "a BOM": (lambda: b"\xef\xbb\xbf" + json.dumps(sound()).encode(), ""),
    "UTF-16": (lambda: json.dumps(sound()).encode("utf-16"), ""),
    "white space around file names": (renamed(" {}\n"), "3 file names read as another path in the image folder"),
    "backslashes": (renamed("images\\{}"), "such as 'images\\\\a.jpg' as 'a.jpg'"),
    "the image folder": (renamed("./images//{}"), "3 file names read as another path"),
    "another machine's folder": (renamed("/home/me/data/{}"), "3 file names read as another path"),
    "a drive": (renamed("D:\\data\\{}"), "3 file names read as another path"),
    "Label Studio": (renamed("..\\..\\label-studio\\media\\upload\\4\\{}"), "3 file names read as another path"),
    "Label Studio's hash": (renamed("/data/upload/4/a1b2c3d4-{}"), "3 file names read as another path"),
    "Label Studio's local files": (renamed("/data/local-files/?d=images/{}"), "3 file names read as another path"),
    "an address": (renamed("https://host/bucket/{}?signed=1"), "3 file names read as another path"),
    "a UUID": (renamed("79c1ac77-26ab-4804-94a8-6f1c061e8ba1_{}"), "3 file names read as another path"),
    "another case": (each("images", lambda entry: {"file_name": entry["file_name"].upper()}), "3 file names read"),
    "JPEG's other suffix": (each("images", lambda entry: {"file_name": entry["file_name"][:-3] + "jpeg"}), "3 file"),
    "no suffix": (each("images", lambda entry: {"file_name": entry["file_name"][:-4]}), "3 file names read"),
    "URL encoding": (
        each("images", lambda entry: {"file_name": entry["file_name"].replace(" ", "%20")}),
        "1 file names read as another path in the image folder, such as 'c%20d.jpg' as 'c d.jpg'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_it_means_the_same(folder: Path, case: str) -> None:
    content, note = READ[case]
    plain, found = read(folder, sound()), read(folder, content())
    assert note in found.describe()
    assert (found.category_ids, found.names) == ([1, 2], ["box", "disc"])
    assert [image.path for image in found.images] == [image.path for image in plain.images]
    for one, other in zip(found.images, plain.images, strict=True):
        assert one.boxes.tolist() == other.boxes.tolist()
        assert one.labels.tolist() == other.labels.tolist()
    for column in ("image", "label", "bbox"):
        assert getattr(found.truth, column).tolist() == getattr(plain.truth, column).tolist()
    assert found.truth.crowd.tolist() == ([0] * 12 if case == "nulls" else plain.truth.crowd.tolist())
    assert plain.counts == {}


OTHERS = {
    "a results file": ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "eval_det takes as"),
    "labelme": ({"version": "5", "shapes": [], "imagePath": "a.jpg"}, "it looks like labelme's JSON of one image"),
    "VIA": ({"a.jpg99": {"filename": "a.jpg", "regions": [], "size": 99}}, "it looks like VIA's annotations"),
    "Label Studio": ([{"id": 1, "annotations": [], "data": {}}], "it looks like Label Studio's own JSON"),
    "mmdetection": ({"metainfo": {}, "data_list": []}, "it looks like mmdetection's own format: give the COCO file"),
    "mmdetection's middle": ([{"filename": "a.jpg", "ann": {}}], "it looks like mmdetection's middle format"),
    "annotations alone": (sound()["annotations"], "add images and categories"),
    "nothing": ({"images": [], "annotations": [], "categories": []}, "an empty data set: it lists no images, annot"),
    "names for categories": ({**sound(), "categories": ["box", "disc"]}, "categories is a list of names: give each"),
    "Latin 1": (b'{"images": "\xf6"}', "it is no UTF-8 text"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_other_formats_are_told(folder: Path, case: str) -> None:
    content, expected = OTHERS[case]
    with pytest.raises(UserError, match=expected) as error:
        read(folder, content)
    assert "\n" not in str(error.value)


def test_a_mask_of_another_size_than_its_image_is_refused(folder: Path) -> None:
    """Its columns would be cut at the wrong places; width and height are often exchanged."""
    data = sound()
    data["annotations"][0]["segmentation"] = {**uncompressed(data["annotations"][0]), "size": [200, 100]}
    with pytest.raises(DataError, match=r"a mask of size \[200, 100\] on an image of .*\[100, 200\]"):
        read(folder, data)


def test_text_that_is_no_number_is_not_counted_as_one(folder: Path) -> None:
    data = sound()
    data["annotations"][0]["bbox"] = ["20", 15, 40, 30]
    data["annotations"][1]["bbox"] = ["oops", 2, 3, 4]
    faults: list[DataFault] = []
    counts = read(folder, data, faults=faults).counts
    assert [(count, what[:42]) for what, count in counts.items()] == [(1, 'entries with numbers written as text ("3")')]
    assert "has bbox ['oops'" in faults[0].what


def test_an_empty_bbox_is_dropped(folder: Path) -> None:
    data = sound()
    data["annotations"][0]["bbox"] = []
    found = read(folder, data)
    assert found.counts == {"annotations of empty bbox dropped": 1}
    assert len(found.truth.bbox) == 11


def test_a_background_with_objects_stays(folder: Path) -> None:
    data = with_category(id=0, name="background")()
    data["annotations"][0]["category_id"] = 0
    assert read(folder, data).names == ["background", "box", "disc"]


def test_categories_of_one_name_are_noted(folder: Path) -> None:
    data = sound()
    data["categories"][1]["name"] = "box\n"
    assert "1 names of several categories, which stay separate classes ('box')" in read(folder, data).describe()


def test_every_fault_of_every_list_is_named(folder: Path) -> None:
    data = sound()
    data["images"][1]["id"] = 2**70
    for entry in data["annotations"][4:8]:
        entry["image_id"] = 2**70  # says nothing new
    data["annotations"][5]["bbox"] = [1, 2, 3]  # does
    data["annotations"][0]["bbox"] = [1, 2, float("nan"), 4]
    data["annotations"][1]["category_id"] = 9
    data["annotations"][3] |= {"bbox": ["oops", "1", 2, 3], "iscrowd": "0"}  # numbers as text beside a fault
    data["annotations"][2] |= {"place": "line 3", "file": "labels/a.txt", "area": []}
    data["categories"].append({"id": 3, "name": ""})
    with pytest.raises(DataError) as error:
        read(folder, data)
    truth = str(folder.parent / "truth.json")
    assert [fault[:2] for fault in error.value.faults] == [
        (truth, "categories[2] (id 3)"),
        (truth, "images[1]"),
        (truth, "annotations[0] (id 4)"),
        (truth, "annotations[1] (id 5)"),
        ("labels/a.txt", "line 3"),
        (truth, "annotations[3] (id 7)"),
        (truth, "annotations[5] (id 9)"),
    ]
    faults: list[DataFault] = []
    found = read(folder, data, faults=faults)
    assert faults == error.value.faults
    assert [image.id for image in found.images] == [1, 3]
    assert found.truth.image.tolist() == [1, 1, 1, 1]
    assert found.counts == {"annotations left out with their image or category": 4}


def test_one_file_as_two_images(folder: Path) -> None:
    data = sound()
    data["images"].append({"id": 9, "file_name": "a.jpg", "width": 200, "height": 100})
    extra = {"image_id": 9, "category_id": 2, "area": 9.5, "iscrowd": 0}
    data["annotations"] += [
        {**extra, "id": 90, "bbox": [1, 2, 30, 40]},
        {**extra, "id": 91, "bbox": [50, 25, 41, 30]},  # as the first entry has it
    ]
    found = read(folder, data)
    assert "1 files listed more than once, such as 'a.jpg' as images 1 and 9 (each scored" in found.describe()
    assert [image.id for image in found.images] == [1, 2, 3, 9]
    assert [len(image.boxes) for image in found.images] == [4, 4, 4, 2]
    merged = merge_repeated(found)
    assert "as images 1 and 9 (taken as one image with the boxes of all)" in merged.describe()
    assert "each scored" not in merged.describe()
    assert [image.id for image in merged.images] == [1, 2, 3]
    assert [len(image.boxes) for image in merged.images] == [5, 4, 4]
    assert merged.images[0].boxes[4].tolist() == [1, 2, 31, 42]
    assert merged.images[0].labels.tolist() == [0, 1, 0, 1, 1]
    assert merged.truth.image.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [0]
    assert len(found.images[0].boxes) == 4
    once = read(folder, sound())
    assert merge_repeated(once) is once


@pytest.mark.parametrize(("part", "images", "boxes"), [("images", ["c d.jpg"], 4), ("categories", [*NAMES], 0)])
def test_of_an_id_that_occurs_twice_nothing_is_kept(folder: Path, part: str, images: list[str], boxes: int) -> None:
    """Nobody knows which of the two entries its annotations mean."""
    data = sound()
    data[part][1]["id"] = data[part][0]["id"]
    for entry in data["annotations"]:  # those of the lost id, as an export that renumbers leaves them
        entry["image_id"] = 1 if part == "images" and entry["image_id"] == 2 else entry["image_id"]
        entry["category_id"] = 1
    faults: list[DataFault] = []
    found = read(folder, data, faults=faults)
    assert len(faults) == 1
    assert [record.file_name for record in found.images] == images
    assert len(found.truth.bbox) == boxes


def test_each_repeated_id_is_one_fault(folder: Path) -> None:
    """Not those of annotations that mean an entry by the id that it should have."""
    data = sound()
    data["images"][1]["id"] = 1  # annotations 4 to 7 mean image 2
    data["categories"][1]["id"] = 1
    data["annotations"][1]["id"] = data["annotations"][5]["id"] = data["annotations"][0]["id"]
    data["annotations"][11] |= {"image_id": 99}
    data["annotations"][10] |= {"bbox": ["1", 2, 3, 4], "id": data["annotations"][9]["id"]}
    with pytest.raises(DataError) as raised:
        read(folder, data)
    places = [fault.place.partition(" ")[0] for fault in raised.value.faults]
    assert places == [
        "categories[1]",
        "images[1]",
        "annotations[1]",
        "annotations[5]",
        "annotations[10]",
        "annotations[11]",
    ]
    assert "has image_id 99, which images does not list" in raised.value.faults[-1].what
