"""YOLO labels against ultralytics' formulas computed by hand, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.data.faults import DataError, DataFault
from detection.data.formats import yolo, yolo_lines, yolo_lists
from detection.data.formats.read import read_annotations
from detection.data.formats.yolo_pixels import fractions, to_pixels
from detection.settings import EvalDataSettings
from divdet.engine.errors import UserError
from tests.detection.data.formats.made import image, text

YAML = "train: images\nnames: [cat, dog, 'no']\n"


def data_set(root: Path, labels: str | None, yaml: str = YAML) -> EvalDataSettings:
    image(root / "images" / "a.png")
    if labels is not None:
        text(root / "labels" / "a.txt", labels)
    image(root / "images" / "b.png", 1)
    text(root / "labels" / "b.txt", "")
    return EvalDataSettings(train_annotations=str(text(root / "data.yaml", yaml)))


def test_lines_become_boxes(tmp_path: Path) -> None:
    labels = (
        "\ufeff1 0.5 0.5 0.25 0.5\r\n"  # a BOM, and lines of Windows
        "\n"
        "0\t0.1  0.2 0.1 0.2 \n"
        "2 0.1 0.2 0.3 0.2 0.3 0.6 0.2 0.7\n"  # four points, as of an oriented box
        "1.0 1e-1 0.2 0.3 0.25 0.2 0.6\n"  # a triangle
        "1 0.5 0.5 0.25 0.5\n"  # a repetition
    )
    found = read_annotations(data_set(tmp_path, labels), "train")
    # ultralytics: x1 = (cx - w / 2) W; box of an outline: minimum and maximum of its points
    assert found.truth.bbox.tolist() == [[75, 25, 50, 50], [10, 10, 20, 20], [20, 20, 40, 50], [20, 20, 40, 40]]
    assert found.truth.label.tolist() == [1, 0, 2, 1]
    assert found.names == ["cat", "dog", "no"]
    assert found.category_ids == [1, 2, 3]
    assert [record.file_name for record in found.images] == ["a.png", "b.png"]
    assert [len(record.boxes) for record in found.images] == [4, 0]
    assert found.counts[yolo_lines.REPEATED_LINES] == 1
    assert found.counts[yolo_lines.OUTLINES] == 2


def test_poses_without_their_shape_are_no_outlines(tmp_path: Path) -> None:
    for number, points in ((2, " 0.45 0.45 2 0.55 0.55 1"), (4, " 0.45 0.45 1 0.55 0.55 1" * 2)):
        with pytest.raises(UserError, match=rf"has a box and a pose: set kpt_shape: \[{number}, 3\] in data\.yaml"):
            read_annotations(data_set(tmp_path / str(number), f"0 0.5 0.5 0.25 0.5{points}\n"), "train")
    corners = " 1 0 1 1 0 1 0 0"  # of an outline along the border
    found = read_annotations(data_set(tmp_path, f"0 0 0{corners}\n"), "train")
    assert len(found.truth.label) == 1


def test_poses_become_boxes(tmp_path: Path) -> None:
    points = " 0.1 0.1 2 0.9 0.9 1"  # more than the box
    found = read_annotations(data_set(tmp_path, f"0 0.5 0.5 0.25 0.5{points}\n", YAML + "kpt_shape: [2, 3]\n"), "train")
    assert found.truth.bbox.tolist() == [[75, 25, 50, 50]]


def test_images_of_one_label_file_are_counted(tmp_path: Path) -> None:
    data = data_set(tmp_path, "0 0.5 0.5 0.5 0.5\n")
    assert yolo.SHARED not in read_annotations(data, "train").counts
    image(tmp_path / "images" / "a.jpg", 2)
    found = read_annotations(data, "train")
    assert [len(record.boxes) for record in found.images] == [1, 1, 0]  # as in ultralytics
    assert found.counts[yolo.SHARED] == 1


@pytest.mark.parametrize("place", [".", "labels", "train.txt"])
def test_poses_of_folders_and_lists_become_boxes(place: str, tmp_path: Path) -> None:
    """Four more columns would be an outline."""
    data_set(tmp_path, "0 0.5 0.5 0.25 0.5 0.1 0.1 0.9 0.9\n", YAML + "kpt_shape: [2, 2]\n")
    text(tmp_path / "train.txt", "images/a.png\n")
    found = read_annotations(EvalDataSettings(train_annotations=str(tmp_path / place)), "train")
    assert found.truth.bbox.tolist() == [[75, 25, 50, 50]]


def test_numbered_classes_are_those_of_all_splits(tmp_path: Path) -> None:
    for split, label in (("train", 0), ("val", 3)):
        image(tmp_path / "images" / split / f"{split}.png", label)
        text(tmp_path / "labels" / split / f"{split}.txt", f"{label} 0.5 0.5 0.25 0.5\n")
    for split in ("train", "val"):
        found = read_annotations(EvalDataSettings(path=str(tmp_path)), split)
        assert found.names == ["0", "1", "2", "3"]


@pytest.mark.parametrize("place", ["data.yaml", "train.txt"])
def test_a_folder_of_images_is_refused_where_the_file_names_them(place: str, tmp_path: Path) -> None:
    data_set(tmp_path, "0 0.5 0.5 0.25 0.5\n")
    text(tmp_path / "train.txt", "images/a.png\n")
    data = EvalDataSettings(train_annotations=str(tmp_path / place), train_images="nowhere")
    with pytest.raises(UserError, match=r"names its images itself: leave out data\.train_images"):
        read_annotations(data, "train")


def test_names_that_no_system_allows_are_not_there(tmp_path: Path) -> None:
    name = "a" * 300 + ".png"
    data = data_set(tmp_path, "0 0.5 0.5 0.25 0.5\n", f"train: {name}\nnames: [a]\n")
    with pytest.raises(UserError, match="which is not there"):
        read_annotations(data, "train")
    listed = text(tmp_path / "train.txt", f"{name}\n")
    with pytest.raises(UserError, match=r"line 1 names .* which is not there"):
        read_annotations(EvalDataSettings(train_annotations=str(listed)), "train")


FAULTS = {
    "0 0.5 0.5 0.25": "has 4 columns",
    "0 0.5 0.5 0.25 0.5 0.99": "has 6 columns: class, box and a confidence",
    "0 0.1 0.1 0.2 0.2 0.3 0.3 0.9": "has 8 columns",
    "3 0.5 0.5 0.25 0.5": "has class 3, but the list of names has 3 classes",
    "-1 0.5 0.5 0.25 0.5": "has class -1, which is no class number",
    "0.5 0.5 0.5 0.25 0.5": "has class 0.5, which is no class number",
    "cat 0.5 0.5 0.25 0.5": "has class 'cat', which is a name: write its number, 0",
    "0,0.5,0.5,0.25,0.5": "which is no class number; separate numbers by spaces",
    "0 0,5 0.5 0.25 0.5": "has '0,5', which is no number; separate numbers by spaces",
    "0 nan 0.5 0.25 0.5": "has nan, which is no finite number",
    "0 1.8 1.5 0.2 0.2": "has a box outside the image",
    "0 -0.3 0.1 -0.2 0.1 -0.2 0.2": "has a box outside the image",
    "0 .5 .5 -.1 .2": "has a width or height below 0: -.1 .2",
    "0 100 50 50 50": "has 100: coordinates are fractions of the image's width and height, 0 to 1, not pixels",
}


def test_faulty_lines_are_all_named(tmp_path: Path) -> None:
    data = data_set(tmp_path, "".join(f"{line}\n" for line in FAULTS))
    with pytest.raises(DataError) as raised:
        read_annotations(data, "train")
    assert [fault.file for fault in raised.value.faults] == [str(tmp_path / "labels" / "a.txt")] * len(FAULTS)
    assert [fault.place for fault in raised.value.faults] == [f"line {n}" for n in range(1, len(FAULTS) + 1)]
    for fault, words in zip(raised.value.faults, FAULTS.values(), strict=True):
        assert words in fault.what
    faults = []
    (tmp_path / "images" / "b.png").write_bytes(b"no image")
    found = read_annotations(data, "train", faults)
    assert len(faults) == len(FAULTS) + 1
    assert {fault.file for fault in faults} == {str(tmp_path / "labels/a.txt"), str(tmp_path / "images/b.png")}
    assert len(found.images) == 1


def test_numbers_that_a_list_of_names_begins_with_are_told(tmp_path: Path) -> None:
    names = "train: images\nnames: {1: cat, 2: dog}\n"
    with pytest.raises(DataError, match="has class 0, but the list of names has 2 classes, counted from 1"):
        read_annotations(data_set(tmp_path, "0 0.5 0.5 0.25 0.5\n", names), "train")


def test_slightly_out_of_the_image_is_clipped(tmp_path: Path) -> None:
    found = read_annotations(data_set(tmp_path, "0 0.98 0.5 0.1 0.5\n"), "train")
    np.testing.assert_allclose(found.images[0].boxes, [[186, 25, 200, 75]])
    assert found.counts["boxes partly outside their image clipped"] == 1


def test_missing_labels_and_names_are_counted(tmp_path: Path) -> None:
    data_set(tmp_path, "4 0.5 0.5 0.25 0.5\n")
    (tmp_path / "data.yaml").unlink()
    image(tmp_path / "images" / "c.png", 2)
    text(tmp_path / "labels" / "d.txt", "0 0.5 0.5 0.25 0.5\n")
    found = read_annotations(EvalDataSettings(train_annotations=str(tmp_path)), "train")
    assert found.names == ["0", "1", "2", "3", "4"]
    assert (found.counts[yolo.NUMBERED], found.counts[yolo.UNLABELED], found.counts[yolo.NO_IMAGE]) == (5, 1, 1)
    assert [len(record.boxes) for record in found.images] == [1, 0, 0]


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("train: images\n", "has no names"),
        ("train: images\nnames: [no]\n", "name 0 is a truth value to YAML: put it in quotes"),
        ("train: images\nnames: {1: a, x: b}\n", "key 'x', which is no class number"),
        ("train: images\nnames: [a]\nnc: 2\n", "nc is 2, but names lists 1"),
        ("train: pictures\nnames: [a]\n", "names 'pictures', which is not there"),
        ("val: images\nnames: [a]\n", "has no training split, but val"),
        ("train: [1]\nnames: [a]\n", "give a folder"),
        ("- a\n", "has no keys such as names and train"),
        ("{", "not YAML"),
        ("names: &a [*a]\ntrain: images", "which is no name|not YAML"),
        ("train: none\nnames: [a]\n", "no images found"),
    ],
)
def test_unusable_data_yaml(yaml: str, words: str, tmp_path: Path) -> None:
    data = data_set(tmp_path, "0 0.5 0.5 0.25 0.5\n", yaml)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=words):
        read_annotations(data, "train")


def test_no_label_file_at_all(tmp_path: Path) -> None:
    data = data_set(tmp_path, None)
    (tmp_path / "labels" / "b.txt").unlink()
    with pytest.raises(UserError, match=r"none of its 2 images has a label file; the first would be .*a\.txt"):
        read_annotations(data, "train")


@pytest.mark.parametrize("orientation", ["auto", "upright", "stored"])
def test_fractions_are_of_the_upright_image(orientation: str, shared: Path, tmp_path: Path) -> None:
    photo = shared / "cases" / "formats" / "exif6.jpg"
    (tmp_path / "a.jpg").write_bytes(photo.read_bytes())
    text(tmp_path / "a.txt", "0 0.5 0.5 0.5 0.25\n")
    data = EvalDataSettings(train_annotations=str(tmp_path), orientation=orientation)
    record = read_annotations(data, "train").images[0]
    from PIL import Image

    with Image.open(photo) as stored:
        width, height = stored.size if orientation == "stored" else stored.size[::-1]
    assert (record.width, record.height, record.upright) == (width, height, orientation != "stored")
    assert record.boxes.tolist() == [[width / 4, height * 3 / 8, width * 3 / 4, height * 5 / 8]]


sides = st.integers(1, 9000)
pixels = st.integers(0, 10**6)


@given(st.tuples(sides, sides), st.tuples(pixels, pixels, pixels, pixels), st.booleans())
def test_pixels_come_back_from_fractions(size: tuple[int, int], parts: tuple[int, ...], six: bool) -> None:
    """Boxes of hundredths of a pixel, by all digits and by the six that other tools write."""
    width, height = size
    x, y = round(parts[0] / 10**6 * width, 2), round(parts[1] / 10**6 * height, 2)
    box = [x, y, round(parts[2] / 10**6 * (width - x), 2), round(parts[3] / 10**6 * (height - y), 2)]
    words = fractions(box, width, height).split()
    words = [f"{float(word):.6f}" for word in words] if six else words
    values = np.array([[float(word) for word in words]])
    found = to_pixels(values, np.array([size], float), np.array([False]), 6 if six else 17)
    assert found[0].tolist() == box or (six and max(size) > 6000)  # half a unit of the last digit: 0.005 pixels


def test_few_decimals_are_exact() -> None:
    found = to_pixels(np.array([[0.5, 0.5, 0.25, 0.5]]), np.array([[427.0, 321.0]]), np.array([False]), 2)
    assert json.dumps(found.tolist()) == "[[160.125, 80.25, 106.75, 160.5]]"


LISTED = {
    "images/train/a.png": "a.png",
    "/home/me/coco/images/train/b.png": "b.png",
    "C:\\Users\\me\\data\\images\\train\\c.png": "c.png",
    "/content/darknet/train/a%20b.png": "a b.png",
}


@pytest.mark.parametrize("by_yaml", [True, False])
def test_lists_of_another_machine(by_yaml: bool, tmp_path: Path) -> None:
    for number, name in enumerate(LISTED.values()):
        image(tmp_path / "images" / "train" / name, number)
        text(tmp_path / "labels" / "train" / f"{name[:-4]}.txt", "0 0.5 0.5 0.25 0.5\n")
    listing = text(tmp_path / "train.txt", "\n".join([*LISTED, "images/train/a.png"]))
    yaml = text(tmp_path / "data.yaml", "path: /home/me/coco\ntrain: train.txt\nnames: [cat]\n")
    found = read_annotations(EvalDataSettings(train_annotations=str(yaml if by_yaml else listing)), "train")
    assert {record.file_name for record in found.images} == set(LISTED.values())
    assert len(found.truth.bbox) == len(LISTED)
    assert "3 listed paths that are not there, found by their end, such as '/home/me/coco" in found.describe()
    assert found.counts[yolo_lists.REPEATED_IMAGES] == 1


def test_lines_that_fit_no_image_or_several_are_all_named(tmp_path: Path) -> None:
    for number, folder in enumerate(("one", "two")):
        image(tmp_path / folder / "images" / "a.png", number)
    image(tmp_path / "b.png", 3)
    image(tmp_path / "one" / "train" / "d.png", 4)
    text(tmp_path / "b.txt", "0 0.5 0.5 0.25 0.5\n")
    lines = ["/x/images/a.png", "/x/val/b.png", "/y/b.png", "/y/c.png", "b.png", "/y/val/d.png"]
    listing = text(tmp_path / "train.txt", "\n".join(lines))
    faults: list[DataFault] = []
    found = read_annotations(EvalDataSettings(train_annotations=str(listing)), "train", faults)
    assert [record.file_name for record in found.images] == ["b.png"]
    assert [fault.place for fault in faults] == ["line 1", "line 3", "line 4", "line 6"]
    assert "one/images/a.png and" in faults[0].what
    assert "both fit" in faults[1].what
    text(tmp_path / "train.txt", "gone.png\nlost.png\n")
    with pytest.raises(DataError) as raised:
        read_annotations(EvalDataSettings(train_annotations=str(listing)), "train")
    assert [fault.place for fault in raised.value.faults] == ["line 1", "line 2"]
