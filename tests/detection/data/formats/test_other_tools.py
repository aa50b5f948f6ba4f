"""Data sets as other tools and other machines leave them, and what is refused by name."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from detection.data.formats.read import read_annotations
from detection.settings import EvalDataSettings
from divdet.commands import COMMANDS
from divdet.engine.errors import UserError
from tests.detection.data.formats.made import image, text, xml

CAT = "0 0.2 0.25 0.2 0.3\n"  # 20 10 40 30 of 200 x 100 pixels
SPLITS = ("train", "val")
YAML = "train: images/train\nval: images/val\nnames: [cat]\n"


def photos(root: Path, images: str = "images/{}", labels: str = "labels/{}", suffix: str = ".jpg") -> None:
    for number, split in enumerate(SPLITS):
        image(root / images.format(split) / f"{split}{suffix}", 9 * number)
        text(root / labels.format(split) / f"{split}.txt", CAT)


def path_beside(root: Path) -> Path:
    photos(root / "datasets" / "x")
    return text(root / "repo" / "x.yaml", f"path: ../datasets/x\n{YAML}")


def path_of_another_machine(root: Path) -> Path:
    photos(root)
    return text(root / "data.yaml", f"path: /home/me/x\n{YAML}")


def splits_of_another_machine(root: Path) -> Path:
    photos(root)
    return text(root / "data.yaml", YAML.replace("images/", "/home/me/datasets/x/images/"))


def windows(root: Path) -> Path:
    photos(root, suffix=".JPG")
    return text(
        root / "data.yaml", YAML.replace("train: images/", "train: images\\").replace("val: ", "val: C:\\me\\x/")
    )


def several_folders(root: Path) -> Path:
    photos(root)
    image(root / "images" / "more" / "more.jpg", 30)
    return text(root / "data.yaml", YAML.replace("images/train", "[images/more, images/train]"))


def capitals(root: Path) -> Path:
    photos(root, "Images/{}", "Labels/{}", ".JPG")
    for split in SPLITS:
        (root / "Labels" / split / f"{split}.txt").rename(root / "Labels" / split / f"{split}.TXT")
    text(root / "classes.txt", "cat\n")
    return root


def labels_named(root: Path) -> Path:
    photos(root)
    return text(root / "data.yaml", YAML.replace("images", "labels"))


def names_in_a_file(root: Path) -> Path:
    photos(root)
    text(root / "classes.txt", "cat\n")
    return text(root / "data.yaml", YAML.replace("[cat]", "classes.txt"))


def names_beside(root: Path) -> Path:
    photos(root)
    text(root / "classes.txt", "cat\n")
    return text(root / "data.yaml", YAML.replace("names: [cat]", "nc: 1"))


def darknet(root: Path) -> Path:
    photos(root, "obj", "obj")
    for split in SPLITS:
        text(root / f"{split}.txt", f"data/obj/{split}.jpg\n")
    (root / "val.txt").rename(root / "test.txt")
    text(root / "obj.names", "cat\n")
    lines = "classes = 1\ntrain  = data/train.txt\nvalid  = data/test.txt\nnames = data/obj.names\nbackup = backup/\n"
    return text(root / "obj.data", lines)


def darknet_folder(root: Path) -> Path:
    return darknet(root).parent


def lists_alone(root: Path) -> Path:
    photos(root, "images", "labels")
    for split in SPLITS:
        text(root / f"{split}.txt", f"./images/{split}.jpg\n")
    text(root / "classes.txt", "cat\n")
    return root


def unpacked_into_a_folder(root: Path) -> Path:
    photos(root / "my-cats-1")
    text(root / "my-cats-1" / "data.yaml", YAML)
    text(root / "__MACOSX" / "._x", "")
    return root


@pytest.mark.parametrize(
    "make",
    [
        path_beside,
        path_of_another_machine,
        splits_of_another_machine,
        windows,
        several_folders,
        capitals,
        labels_named,
        names_in_a_file,
        names_beside,
        darknet,
        darknet_folder,
        lists_alone,
        unpacked_into_a_folder,
    ],
    ids=lambda make: make.__name__,
)
def test_yolo_is_read(make: Callable[[Path], Path], tmp_path: Path) -> None:
    data = EvalDataSettings(path=str(make(tmp_path)))
    for split in SPLITS:
        found = read_annotations(data, split)
        assert found.names == ["cat"]
        assert found.truth.bbox.tolist() == [[20, 10, 40, 30]]
        assert len(found.images) == 1 + (make is several_folders and split == "train")
        assert any(record.path.stem == split for record in found.images)
        if make is splits_of_another_machine:
            assert "1 places that are not there, found by their end, such as '/home/me" in found.describe()


def test_lists_beside_another_format_are_no_yolo(tmp_path: Path) -> None:
    for name in ("a", "b"):
        image(tmp_path / f"{name}.jpg")
        text(tmp_path / f"{name}.xml", xml(("cat", 21, 11, 60, 40)))
    text(tmp_path / "train.txt", "a.jpg\nb.jpg\n")
    assert len(read_annotations(EvalDataSettings(path=str(tmp_path)), "train").images) == 2


def test_an_export_tools_prefix_may_be_in_names_of_labels(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b", "c")):
        image(tmp_path / "images" / f"{name}.jpg", 9 * number)
    for name in ("0a1b2c3d-a", "1a1b2c3d-b", "2a1b2c3d-b"):  # the last two fit one image
        text(tmp_path / "labels" / f"{name}.txt", CAT)
    text(tmp_path / "data.yaml", "train: images\nnames: [cat]\n")
    for data in (tmp_path, tmp_path / "data.yaml"):
        found = read_annotations(EvalDataSettings(train_annotations=str(data)), "train")
        assert [len(record.boxes) for record in found.images] == [1, 0, 0]
        assert "1 label files named otherwise than their image, such as 0a1b2c3d-a.txt of a.jpg" in found.describe()
        assert "2 label files without an image" in found.describe()


def test_voc_suffixes_may_be_capitals(tmp_path: Path) -> None:
    image(tmp_path / "JPEGImages" / "a.JPG")
    text(tmp_path / "Annotations" / "a.XML", xml(("cat", 21, 11, 60, 40), filename="a.JPG"))
    found = read_annotations(EvalDataSettings(train_annotations=str(tmp_path)), "train")
    assert found.truth.bbox.tolist() == [[20, 10, 40, 30]]


def test_a_split_of_darknets_data_names_its_classes(tmp_path: Path) -> None:
    darknet(tmp_path / "data")
    image(tmp_path / "data" / "obj" / "more.jpg", 40)
    text(tmp_path / "data" / "train.txt", "data/obj/train.jpg\ndata/obj/more.jpg\n")
    name, *words = [
        "split",
        str(tmp_path / "data" / "train.txt"),
        "--fraction",
        "0.5",
        "--output",
        str(tmp_path / "out"),
    ]
    COMMANDS[name].call(COMMANDS[name].parse(words))
    assert yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())["names"] == {0: "cat"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.ndjson", "is ultralytics' NDJSON, which is not read"),
        ("a.CSV", "is CSV, which is not read: give the data set as COCO, YOLO or Pascal VOC"),
        ("a.zip", "is an archive: unpack it"),
    ],
)
def test_other_files_are_refused_by_name(name: str, words: str, tmp_path: Path) -> None:
    file = text(tmp_path / name, "{}\n{}\n")
    for path in (file, tmp_path):
        with pytest.raises(UserError, match=words):
            read_annotations(EvalDataSettings(path=str(path)), "train")


def test_a_folder_without_annotations_is_the_one_that_is_named(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.jpg")
    (tmp_path / "x.data").write_bytes(b"\xff\x00")
    with pytest.raises(UserError, match=f"^{tmp_path}: no annotations found"):
        read_annotations(EvalDataSettings(path=str(tmp_path)), "train")
