"""Conversions there and back, and what a format cannot say."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detection.data.annotations import CocoAnnotations
from detection.data.coco import load_annotations
from detection.data.formats import items, write
from detection.data.formats.layouts import find_splits
from detection.data.formats.read import read_source
from detection.data.formats.write import write_data_set
from divdet.engine.errors import UserError
from tests.detection.data.formats.made import coco, image


def read(folder: Path) -> dict[str, CocoAnnotations]:
    sources = find_splits(folder)
    return {split: read_source(source, sources.values()) for split, source in sources.items()}


def facts(annotations: CocoAnnotations) -> list[tuple]:
    """All that every format can say, in order."""
    truth = annotations.truth
    names = [annotations.images[index].file_name for index in truth.image]
    labels = [annotations.names[label] for label in truth.label]
    return list(zip(names, labels, truth.bbox.tolist(), truth.crowd.tolist(), strict=True))


@pytest.mark.parametrize("target", ["coco", "yolo", "voc"])
def test_bccd_is_equal_there_and_back(target: write.Target, shared: Path, tmp_path: Path) -> None:
    source = read(shared / "data" / "bccd")
    source = {split: source[split] for split in ("val", "test")}
    write_data_set(source, target, tmp_path / "there", link=True)
    there = read(tmp_path / "there")
    write_data_set(there, "coco", tmp_path / "back", link=True)
    back = read(tmp_path / "back")
    assert list(there) == list(back) == ["val", "test"]
    for split, annotations in source.items():
        for other in (there[split], back[split]):
            assert facts(other) == facts(annotations)
            assert (other.names, other.category_ids) == (annotations.names, annotations.category_ids)
            for record, own in zip(other.images, annotations.images, strict=True):
                assert (record.width, record.height) == (own.width, own.height)
                np.testing.assert_array_equal(record.boxes, own.boxes)
                assert os.path.samefile(record.path, own.path)


coordinate = st.one_of(st.integers(0, 40), st.integers(0, 4000).map(lambda n: n / 100))
box = st.tuples(coordinate, coordinate, st.integers(1, 50), st.integers(100, 5000).map(lambda n: n / 100))
objects = st.lists(
    st.tuples(st.integers(0, 2), box, st.booleans()), min_size=1, max_size=4, unique_by=lambda one: one[1]
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=objects, target=st.sampled_from(["coco", "yolo", "voc"]))
def test_any_boxes_come_back(found: list, target: write.Target, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("boxes")
    truth = coco("b.jpg", "a/c.jpg")
    for entry in truth["images"]:
        image(folder / entry["file_name"])
    truth["categories"] = [{"id": number, "name": name} for number, name in ((3, "z"), (5, "a b"), (9, "ü & <x>"))]
    ids = [3, 5, 9]
    # one of each class, so that all are named
    found = [*found, *((label, (41, 42, 3, 4), False) for label in range(3))]
    truth["annotations"] = [
        {"id": n, "image_id": 1 + n % 2, "category_id": ids[label], "bbox": list(bbox), "iscrowd": int(crowd)}
        for n, (label, bbox, crowd) in enumerate(found, 1)
    ]
    (folder / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    source = load_annotations(folder / "truth.json", folder)
    _, counts = write_data_set({"train": source}, target, folder / "there")
    there = read(folder / "there")["train"]
    expected = sorted(facts(source))
    if target == "yolo":
        assert counts[write.CROWDS] == sum(source.truth.crowd)
        expected = [row for row in expected if not row[3]]
    assert sorted(facts(there)) == expected
    assert there.names == source.names


def one_image(folder: Path, *boxes: list[float], **entry: object) -> CocoAnnotations:
    truth = coco("a.jpg")
    image(folder / "a.jpg")
    truth["annotations"] = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": bbox} | entry for n, bbox in enumerate(boxes, 1)
    ]
    (folder / "truth.json").write_text(json.dumps(truth))
    return load_annotations(folder / "truth.json", folder)


def test_yolo_ends_at_the_border(tmp_path: Path) -> None:
    annotations = one_image(tmp_path, [150, 50, 100, 20], [250, 5, 5, 5], [9, 9, 0, 5], [190, 90, 10.005, 10])
    _, counts = write_data_set({"val": annotations}, "yolo", tmp_path / "out")
    assert (counts[write.CLIPPED], counts[write.DROPPED]) == (1, 2)
    assert read(tmp_path / "out")["val"].truth.bbox.tolist() == [[150, 50, 50, 20], [190, 90, 10.005, 10]]


def test_voc_says_boxes_from_1_where_it_can(tmp_path: Path) -> None:
    for number, (bbox, corners) in enumerate(
        [([0, 5, 10, 20], "1 6 10 25"), ([-1, 5, 10, 20], "-1.0 5.0 9.0 25.0"), ([0.5, 5, 10, 20], "0.5 5.0 10.5 25.0")]
    ):
        out = tmp_path / str(number)
        write_data_set({"val": one_image(tmp_path, bbox)}, "voc", out)
        xml = (out / "Annotations" / "a.xml").read_text()
        found = [xml.partition(f"<{key}>")[2].partition("<")[0] for key in ("xmin", "ymin", "xmax", "ymax")]
        assert " ".join(found) == corners
        assert read(out)["val"].truth.bbox.tolist() == [bbox]


def test_voc_drops_boxes_without_area(tmp_path: Path) -> None:
    annotations = one_image(tmp_path, [5, 5, 0, 9], [9, 9, 4, -2.5], [1, 2, 3, 4])
    _, counts = write_data_set({"val": annotations}, "voc", tmp_path / "out")
    assert counts[write.FLAT] == 2
    assert read(tmp_path / "out")["val"].truth.bbox.tolist() == [[1, 2, 3, 4]]
    assert "<xmin>2</xmin>" in (tmp_path / "out" / "Annotations" / "a.xml").read_text()


def test_categories_of_one_name_stay_apart(tmp_path: Path) -> None:
    splits = {}
    for split, ids in (("train", (3, 7)), ("val", (7,)), ("test", (5,))):
        truth = coco(image(tmp_path / f"{split}.jpg").name)
        names = {3: "cat", 5: "cat", 7: "cat"}
        truth["categories"] = [{"id": number, "name": names[number]} for number in ids]
        truth["annotations"] = [
            {"id": number, "image_id": 1, "category_id": number, "bbox": [number, 1, 9, 9]} for number in ids
        ]
        (tmp_path / f"{split}.json").write_text(json.dumps(truth))
        splits[split] = load_annotations(tmp_path / f"{split}.json", tmp_path)
    for target in ("coco", "yolo", "voc"):
        _, counts = write_data_set(splits, target, tmp_path / target)
        back = read(tmp_path / target)
        named = target != "coco"
        assert counts[items.NUMBERED] == named
        assert back["train"].names == ["cat", "cat_2" if named else "cat"]
        assert back["train"].truth.label.tolist() == [0, 1]
        assert [back["val"].names[label] for label in back["val"].truth.label] == [back["train"].names[1]]
        if target == "coco":
            assert [back[split].category_ids[back[split].truth.label[0]] for split in ("val", "test")] == [7, 3]


def test_rotated_photos_are_written_upright(shared: Path, tmp_path: Path) -> None:
    """Boxes of the stored layout are turned as Pillow turns the pixels."""
    from PIL import Image, ImageOps

    for code in range(2, 9):
        photo = shared / "cases" / "formats" / f"exif{code}.jpg"
        with Image.open(photo) as stored:
            width, height = stored.size
            mask = Image.new("L", stored.size)
            mask.paste(255, (2, 3, 7, 11))
            mask.getexif()[0x0112] = code
            left, top, right, bottom = ImageOps.exif_transpose(mask).getbbox()
        folder = tmp_path / str(code)
        folder.mkdir()
        (folder / "a.jpg").write_bytes(photo.read_bytes())
        truth = coco("a.jpg", box=[2, 3, 5, 8])
        truth["images"][0] |= {"width": width, "height": height}
        (folder / "truth.json").write_text(json.dumps(truth))
        annotations = load_annotations(folder / "truth.json", folder, "stored")
        _, counts = write_data_set({"val": annotations}, "yolo", folder / "out")
        assert counts[items.TURNED] == 1
        assert read(folder / "out")["val"].truth.bbox.tolist() == [[left, top, right - left, bottom - top]]


def test_names_stay_apart(tmp_path: Path) -> None:
    """YOLO and VOC know images by name without suffix; VOC and COCO keep all splits in one folder."""
    splits = {}
    for split in ("train", "val"):
        for name in ("a.jpg", "A.png", "b/a.jpg"):
            image(tmp_path / split / name, len(splits))
        truth = coco("a.jpg", "A.png", "b/a.jpg")
        (tmp_path / f"{split}.json").write_text(json.dumps(truth))
        splits[split] = load_annotations(tmp_path / f"{split}.json", tmp_path / split)
    for target, renamed in (("coco", 3), ("yolo", 2), ("voc", 4)):
        _, counts = write_data_set(splits, target, tmp_path / target)
        assert counts[items.RENAMED] == renamed
        back = read(tmp_path / target)
        assert [len(back[split].images) for split in splits] == [3, 3]
        sources = {record.path.read_bytes() for record in splits["val"].images}
        assert {record.path.read_bytes() for record in back["val"].images} == sources


def test_nothing_is_overwritten_or_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotations = one_image(tmp_path, [1, 2, 3, 4])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="not empty; choose another --output"):
        write_data_set({"val": annotations}, "voc", tmp_path / "full")
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(write.shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(UserError, match="the disk is full"):
        write_data_set({"val": annotations}, "yolo", tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before
