"""Data sets in the folders that tools export, recognized and read."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from detection.data.formats import layouts
from detection.data.formats.layouts import find_splits
from detection.data.formats.read import read_annotations
from detection.settings import EvalDataSettings
from divdet.engine.errors import UserError
from tests.detection.data.formats.made import coco, image, text, xml

CAT = "0 0.2 0.25 0.2 0.3\n"  # 20 10 40 30 of 200 x 100 pixels
BOX = [20, 10, 40, 30]
XML = xml(("cat", 21, 11, 60, 40))


def roboflow_yolo(root: Path) -> None:
    for split in ("train", "valid", "test"):
        image(root / split / "images" / f"{split}.rf.0a.jpg")
        text(root / split / "labels" / f"{split}.rf.0a.txt", CAT)
    lines = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 1\nnames: ['cat']\n"
    text(root / "data.yaml", lines + "\nroboflow:\n  version: 1\n")
    text(root / "README.roboflow.txt", "cats - v1\n")


def roboflow_coco(root: Path) -> None:
    for split in ("train", "valid", "test"):
        image(root / split / f"{split}.jpg")
        text(root / split / "_annotations.coco.json", json.dumps(coco(f"{split}.jpg")))


def roboflow_voc(root: Path) -> None:
    for split in ("train", "valid"):
        image(root / split / f"{split}.jpg")
        text(root / split / f"{split}.xml", XML)


def ultralytics(root: Path) -> None:
    for split in ("train", "val"):
        image(root / "images" / split / f"{split}.jpg")
        text(root / "labels" / split / f"{split}.txt", CAT)
    text(
        root / "coco8.yaml", "path: coco8 # dataset root dir\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n"
    )


def ultralytics_without_yaml(root: Path) -> None:
    ultralytics(root)
    (root / "coco8.yaml").unlink()
    text(root / "classes.txt", "cat\n")


def ultralytics_lists(root: Path) -> None:
    ultralytics(root)
    text(root / "train.txt", "./images/train/train.jpg\n")
    text(root / "val.txt", f"{root / 'images/val/val.jpg'}\n")
    text(root / "coco8.yaml", "train: train.txt\nval: val.txt\nnames: {0: cat}\n")


def cvat_ultralytics(root: Path) -> None:
    image(root / "images" / "train" / "a.jpg")
    text(root / "labels" / "train" / "a.txt", "0 0.200000 0.250000 0.200000 0.300000\n")
    text(root / "train.txt", "data/images/train/a.jpg\n")
    text(root / "data.yaml", "names:\n  0: cat\npath: .\ntrain: train.txt\n")


def cvat_yolo(root: Path) -> None:
    image(root / "obj_train_data" / "a.jpg")
    text(root / "obj_train_data" / "a.txt", CAT)
    text(root / "obj.data", "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    text(root / "obj.names", "cat\n")
    text(root / "train.txt", "data/obj_train_data/a.jpg\n")


def cvat_coco(root: Path) -> None:
    image(root / "images" / "default" / "a.jpg")
    text(root / "annotations" / "instances_default.json", json.dumps(coco("a.jpg")))


def cvat_voc(root: Path) -> None:
    image(root / "JPEGImages" / "a.jpg")
    text(root / "Annotations" / "a.xml", xml(("cat", 20.0, 10.0, 60.0, 40.0), filename="a.jpg"))
    text(root / "ImageSets" / "Main" / "default.txt", "a\n")
    text(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\n")


def labelimg_yolo(root: Path) -> None:
    image(root / "a.jpg")
    text(root / "a.txt", "0 0.200000 0.250000 0.200000 0.300000\n")
    text(root / "classes.txt", "cat\n")


def labelimg_voc(root: Path) -> None:
    image(root / "a.jpg")
    text(root / "a.xml", xml(("cat", 21, 11, 60, 40), filename="a.jpg"))


def label_studio_yolo(root: Path) -> None:
    image(root / "images" / "a.jpg")
    text(root / "labels" / "a.txt", CAT)
    text(root / "classes.txt", "cat\n")
    text(root / "notes.json", '{"categories": [{"id": 0, "name": "cat"}], "info": {"year": 2024}}')


def label_studio_coco(root: Path) -> None:
    image(root / "images" / "a.jpg")
    text(root / "result.json", json.dumps(coco("images/a.jpg")))


def label_studio_voc(root: Path) -> None:
    image(root / "images" / "a.jpg")
    text(root / "Annotations" / "a.xml", xml(("cat", 20, 10, 60, 40), ("cat", 0, 0, 9, 9), filename="a"))


def fiftyone_coco(root: Path) -> None:
    image(root / "data" / "a.jpg")
    text(root / "labels.json", json.dumps(coco("a.jpg")))


def coco_2017(root: Path) -> None:
    for split in ("train", "val"):
        image(root / f"{split}2017" / f"{split}.jpg")
        truth = coco(f"{split}.jpg")
        text(root / "annotations" / f"instances_{split}2017.json", json.dumps(truth))
        text(root / "annotations" / f"person_keypoints_{split}2017.json", json.dumps(truth))


def this_project_coco(root: Path) -> None:
    for split in ("train", "val"):
        image(root / "images" / f"{split}.jpg")
        text(root / "annotations" / f"instances_{split}.json", json.dumps(coco(f"{split}.jpg")))


def pascal_voc(root: Path) -> None:
    year = root / "VOCdevkit" / "VOC2012"
    for split in ("train", "val"):
        image(year / "JPEGImages" / f"2008_{split}.jpg")
        text(year / "Annotations" / f"2008_{split}.xml", XML)
        text(year / "ImageSets" / "Main" / f"{split}.txt", f"2008_{split}\n")
    text(year / "ImageSets" / "Main" / "trainval.txt", "2008_train\n2008_val\n")
    text(year / "ImageSets" / "Main" / "cat_train.txt", "2008_train  1\n")


def pascal_voc_2007(root: Path) -> None:
    pascal_voc(root)
    lists = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main"
    (lists / "train.txt").unlink()
    (lists / "val.txt").unlink()


def plain_voc(root: Path) -> None:
    image(root / "images" / "a.png")
    text(root / "annotations" / "a.xml", XML)


LAYOUTS: dict[Callable[[Path], None], list[str]] = {
    roboflow_yolo: ["train", "val", "test"],
    roboflow_coco: ["train", "val", "test"],
    roboflow_voc: ["train", "val"],
    ultralytics: ["train", "val"],
    ultralytics_without_yaml: ["train", "val"],
    ultralytics_lists: ["train", "val"],
    cvat_ultralytics: ["train"],
    cvat_yolo: ["train"],
    cvat_coco: [""],
    cvat_voc: [""],
    labelimg_yolo: [""],
    labelimg_voc: [""],
    label_studio_yolo: [""],
    label_studio_coco: [""],
    label_studio_voc: [""],
    fiftyone_coco: [""],
    coco_2017: ["train", "val"],
    this_project_coco: ["train", "val"],
    pascal_voc: ["train", "val"],
    pascal_voc_2007: ["train"],
    plain_voc: [""],
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_layout_is_recognized_and_read(layout: Callable[[Path], None], tmp_path: Path) -> None:
    layout(tmp_path)
    assert list(find_splits(tmp_path)) == LAYOUTS[layout]
    data = EvalDataSettings(path=str(tmp_path))
    for split in ("train", "val")[: 2 if "val" in LAYOUTS[layout] else 1]:
        found = read_annotations(data, split)
        assert found.names == ["cat"]
        assert found.truth.bbox[0].tolist() == BOX
        assert all(record.path.is_file() for record in found.images)
        expected = 2 if layout is pascal_voc_2007 else 1
        assert len(found.images) == expected
        if "val" in LAYOUTS[layout]:
            assert split in found.images[0].path.name


@pytest.mark.parametrize("place", ["images/train", "labels/train", "coco8.yaml"])
def test_one_split_may_be_named(place: str, tmp_path: Path) -> None:
    ultralytics(tmp_path)
    found = read_annotations(EvalDataSettings(train_annotations=str(tmp_path / place)), "train")
    assert [record.file_name for record in found.images] == ["train.jpg"]
    assert found.names == ["cat"]


def test_images_may_lie_elsewhere(tmp_path: Path) -> None:
    labelimg_yolo(tmp_path / "labels")
    image(tmp_path / "photos" / "a.png")
    (tmp_path / "labels" / "a.jpg").unlink()
    data = EvalDataSettings(val_annotations=str(tmp_path / "labels"), val_images=str(tmp_path / "photos"))
    assert read_annotations(data, "val").images[0].path == tmp_path / "photos" / "a.png"


def test_several_formats_ask_for_a_choice(tmp_path: Path) -> None:
    plain_voc(tmp_path)
    label_studio_yolo(tmp_path)
    with pytest.raises(UserError, match=r"several formats: yolo .* voc .*data\.format"):
        find_splits(tmp_path)
    assert find_splits(tmp_path, "voc")[""].format == "voc"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: text(root / "a.bin", "x"), "no annotations found in a known layout"),
        (lambda root: text(root / "train/a.json", '{"shapes": [], "imagePath": "a.jpg"}'), "looks like labelme's JSON"),
        (lambda root: text(root / "a.json", '{"categories": {}, "items": []}'), "looks like Datumaro's JSON"),
        (lambda root: [ultralytics(root), text(root / "b.yaml", "names: [x]")], "b.yaml and coco8.yaml both describe"),
        (lambda root: [pascal_voc(root), (root / "VOCdevkit/VOC2007/Annotations").mkdir(parents=True)], "name one"),
        (
            lambda root: [coco_2017(root), text(root / "annotations/instances_val.json", json.dumps(coco("val.jpg")))],
            "instances_val.json and instances_val2017.json both fit the split val",
        ),
    ],
)
def test_unclear_folders_say_what_to_do(make: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=words):
        find_splits(tmp_path)


def test_a_test_split_that_is_not_there_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    roboflow_yolo(tmp_path)
    (tmp_path / "test").rename(tmp_path / "elsewhere")
    for place in (tmp_path, tmp_path / "data.yaml"):
        assert list(find_splits(place)) == ["train", "val"]
    assert "data.yaml: its test split is left out, since '../test/images' is not there" in capsys.readouterr().out


def test_missing_splits_say_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"data\.train_annotations is not set: .* --data(,|$)"):
        read_annotations(EvalDataSettings(), "train")
    labelimg_yolo(tmp_path)
    with pytest.raises(UserError, match=r"no validation split found \(it has train\): .*data\.val_fraction"):
        read_annotations(EvalDataSettings(path=str(tmp_path)), "val")
    with pytest.raises(UserError, match="there is no such file or folder"):
        read_annotations(EvalDataSettings(path=str(tmp_path / "none")), "val")
    monkeypatch.setattr(layouts, "_voc", lambda folder: pytest.fail("it looks through all of a home folder, say"))
    alone = text(tmp_path / "coco" / "instances_train.json", json.dumps(coco("a.jpg")))
    for others in ("$", f", or give the folder, which has one: --data {alone.parent}$"):
        with pytest.raises(UserError, match=r"no validation split found \(it has train\): .*such as 0\.2" + others):
            read_annotations(EvalDataSettings(path=str(alone)), "val")
        text(alone.with_name("instances_val.json"), json.dumps(coco("b.jpg")))
    with pytest.raises(UserError, match="there is no such file or folder"):
        find_splits("a" * 300)


@pytest.mark.parametrize(
    "tool", ["extra: !!python/name:a.b\n", "a: !!timestamp foo\n", "b: !!bool x\n", "c: {<<: 1}\n"]
)
def test_yaml_of_other_tools_is_skipped(tool: str, tmp_path: Path) -> None:
    this_project_coco(tmp_path)
    text(tmp_path / "mkdocs.yml", tool)
    assert list(find_splits(tmp_path)) == ["train", "val"]
    labelimg_yolo(tmp_path / "labeled")
    text(tmp_path / "labeled" / "mkdocs.yml", tool)
    assert read_annotations(EvalDataSettings(path=str(tmp_path / "labeled")), "train").names == ["cat"]
    broken = text(tmp_path / "labeled" / "data.yaml", "names: [cat]\n" + tool)
    for path in (broken, broken.parent):
        with pytest.raises(UserError, match=r"data\.yaml: (not YAML|merges)"):
            find_splits(path)


def test_a_coco_file_left_out_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    this_project_coco(tmp_path)
    for _ in range(2):
        assert list(find_splits(tmp_path)) == ["train", "val"]
    assert not capsys.readouterr().out
    (tmp_path / "annotations" / "instances_train.json").rename(tmp_path / "annotations" / "train.json")
    (tmp_path / "annotations" / "instances_val.json").rename(tmp_path / "annotations" / "val.json")
    text(tmp_path / "annotations" / "more.json", json.dumps(coco("more.jpg")))
    for _ in range(2):
        assert list(find_splits(tmp_path)) == ["train", "val"]
    assert capsys.readouterr().out.count("more.json") == 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig"])
def test_coco_of_any_encoding_is_recognized(encoding: str, tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels.json").write_bytes(json.dumps(coco("a.jpg")).encode(encoding))
    assert len(read_annotations(EvalDataSettings(path=str(tmp_path)), "train").images) == 1


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("../../label-studio/media/upload/4/a1b2c3d4-a.jpg", "images/a.jpg"),
        ("a.jpg", "images/a1b2c3d4-a.jpg"),
        ("a", "images/inner/a.jpg"),
        ("a" * 300, None),
        ("A.jpg", "a.jpg"),
    ],
)
def test_images_of_other_names_are_found(name: str, file: str | None, tmp_path: Path) -> None:
    root = tmp_path / "set"  # tmp_path itself is named after this test, as if it were a test split
    text(root / "result.json", json.dumps(coco(name)))
    image(root / (file or "images/b.jpg"))
    data = EvalDataSettings(path=str(root))
    if file is None:
        with pytest.raises(UserError, match="its images were not found"):
            read_annotations(data, "train")
    else:
        assert read_annotations(data, "train").images[0].path == root / file


def test_a_file_of_another_format_is_not_asked_for_its_images(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    text(file, json.dumps({"metainfo": {"classes": ["a"]}, "data_list": [{"img_path": "a.jpg", "instances": []}]}))
    with pytest.raises(UserError, match=r"not COCO ground truth: .* it looks like mmdetection's own format"):
        read_annotations(EvalDataSettings(path=str(file)), "train")


@pytest.mark.parametrize("content", ["", '{"images": [{"id": 1, "file_name": "1.jpg"}], "annotat'])
def test_a_damaged_split_is_not_taken_as_absent(content: str, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        text = '{"images": [], "annotations": [], "categories": []}' if split == "val" else content
        (tmp_path / f"annotations/instances_{split}.json").write_text(text)
    assert [*find_splits(tmp_path)] == ["train", "val"]
    with pytest.raises(UserError, match=r"instances_train\.json: not JSON"):
        read_annotations(EvalDataSettings(path=str(tmp_path)), "train")
