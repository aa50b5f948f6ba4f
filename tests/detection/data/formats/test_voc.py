"""VOC files against detectron2's and torchvision's conventions computed by hand, and what is refused."""

from pathlib import Path

import pytest
from PIL import Image

from detection.data.faults import DataError
from detection.data.formats import voc
from detection.data.formats.read import read_annotations
from detection.settings import EvalDataSettings
from divdet.engine.errors import UserError
from tests.detection.data.formats.made import image, text, xml


def data_set(root: Path, *files: str, **settings: str) -> EvalDataSettings:
    for number, content in enumerate(files):
        image(root / "JPEGImages" / f"{number}.jpg", number)
        text(root / "Annotations" / f"{number}.xml", content)
    return EvalDataSettings(train_annotations=str(root), **settings)


WHOLE = xml(("dog", 1, 1, 200, 100), ("cat", 11, 21, 20, 40, "<difficult>1</difficult>"))


def test_devkit_counts_from_1_and_includes_the_end(tmp_path: Path) -> None:
    found = read_annotations(data_set(tmp_path, WHOLE), "train")
    assert found.truth.bbox.tolist() == [[0, 0, 200, 100], [10, 20, 10, 20]]  # detectron2: xmin - 1, xmax
    assert found.names == ["cat", "dog"]
    assert found.truth.label.tolist() == [1, 0]
    assert found.truth.crowd.tolist() == [False, True]
    assert "2 boxes whose coordinates count from 1, since none is below 1 or has a decimal point" in found.describe()
    assert found.counts[voc.DIFFICULT] == 1


@pytest.mark.parametrize("other", [("cat", 0, 4, 9, 9), ("cat", "3.5", 4, 9, 9), ("cat", "3.0", 4, 9, 9)])
def test_other_tools_count_from_0(other: tuple, tmp_path: Path) -> None:
    """One such box anywhere decides for all splits."""
    data = data_set(tmp_path, WHOLE, xml(other))
    text(tmp_path / "ImageSets/Main/train.txt", "0\n")
    text(tmp_path / "ImageSets/Main/val.txt", "1\n")
    found = read_annotations(data, "train")
    assert found.truth.bbox.tolist() == [[1, 1, 199, 99], [11, 21, 9, 19]]
    assert "2 boxes whose coordinates count from 0, since 1 of 3 (in " in found.describe()
    assert f"{tmp_path / 'Annotations' / '1.xml'})" in found.describe()
    assert len(found.images) == 1


def boxes(*starts: object) -> str:
    return xml(*(("cat", start, 5, 60, 40) for start in starts))


@pytest.mark.parametrize(
    ("starts", "origin", "why"),
    [
        ([0] + [1] * 9, 0, "since 1 of 10 (in"),
        ([0] + [1] * 10, 1, "since only 1 of 11 (in"),  # a slip
        ([0] + [7] * 30, 0, "start before 1"),
        (["3.5"] + [7] * 10, 1, "since only 1 of 11 (in"),
        (["3.5", "4.0"] + [7] * 10, 0, "have a decimal point"),
        ([7] * 10, 1, "since none is below 1"),
    ],
)
def test_a_few_slips_do_not_decide_the_origin(starts: list, origin: int, why: str, tmp_path: Path) -> None:
    found = read_annotations(data_set(tmp_path, boxes(*starts)), "train")
    assert found.truth.bbox[-1].tolist() == [float(starts[-1]) - origin, 5 - origin, *found.truth.bbox[-1, 2:]]
    assert f"count from {origin}, " in found.describe()
    assert why in found.describe()


def test_most_files_are_pascals_own(tmp_path: Path) -> None:
    own = boxes(0, "3.5").replace("<size>", "<source><database>The VOC2007 Database</database></source><size>")
    for number, (files, origin) in enumerate((([own, own, boxes(0)], 1), ([own, boxes(0), boxes(0)], 0))):
        found = read_annotations(data_set(tmp_path / str(number), *files), "train")
        assert f"count from {origin}, " in found.describe()
        assert found.truth.bbox[0, 1] == 5 - origin


def test_origin_may_be_forced_and_pascals_own_is_known(tmp_path: Path) -> None:
    found = read_annotations(data_set(tmp_path, WHOLE, voc_origin="0"), "train")
    assert found.truth.bbox[0].tolist() == [1, 1, 199, 99]
    own = xml(("cat", "45.5", 11, 60, 40)).replace(
        "<size>", "<source><database>The VOC2012 Database</database></source><size>"
    )
    found = read_annotations(data_set(tmp_path, own), "train")
    assert found.truth.bbox[0].tolist() == [44.5, 10, 15.5, 30]


def test_classes_of_a_file_keep_their_order(tmp_path: Path) -> None:
    data = data_set(tmp_path, WHOLE)
    text(tmp_path / "classes.txt", "dog\nbird\ncat\n")
    found = read_annotations(data, "train")
    assert found.names == ["dog", "bird", "cat"]
    assert found.truth.label.tolist() == [0, 2]
    text(tmp_path / "classes.txt", "dog\n")
    with pytest.raises(UserError, match=r"0.xml: object 2 \(line 3\) has name .cat., which the list of classes"):
        read_annotations(data, "train")


def test_both_splits_share_sorted_classes(tmp_path: Path) -> None:
    data_set(tmp_path / "train", xml(("dog", 1, 1, 9, 9)))
    data_set(tmp_path / "valid", xml(("cat", 1, 1, 9, 9)))
    for split in ("train", "val"):
        assert read_annotations(EvalDataSettings(path=str(tmp_path)), split).names == ["cat", "dog"]


def test_size_may_be_missing(tmp_path: Path) -> None:
    for number, size in enumerate(
        [(0, 0), ("", ""), ("1e30000000", 100), ("1e-30000000", 100), ("2_00", 100), ("nan", 1)]
    ):
        data = data_set(tmp_path / str(number), xml(("cat", 1, 1, 9, 9), size=size))
        record = read_annotations(data, "train").images[0]
        assert (record.width, record.height) == (200, 100)


@pytest.mark.parametrize(
    ("xml_name", "filename", "images", "expected"),
    [
        ("b", "a.jpg", ["a.jpg", "b.jpg"], "b.jpg"),  # renamed after annotation
        ("b", "gone.jpg", ["b.jpeg"], "b.jpeg"),
        ("1", "a.jpg", ["a.jpg"], "a.jpg"),  # numbered by the tool
        ("1", "C:\\photos\\a.jpg", ["a.jpg"], "a.jpg"),
        ("a", "a.png", ["a.jpg", "a.png"], "a.png"),
        ("a.b", "", ["a.b.jpg"], "a.b.jpg"),
    ],
)
def test_image_of_a_file(xml_name: str, filename: str, images: list[str], expected: str, tmp_path: Path) -> None:
    for name in images:
        image(tmp_path / "images" / name)
    text(tmp_path / "annotations" / f"{xml_name}.xml", xml(("cat", 1, 1, 9, 9), filename=filename))
    found = read_annotations(EvalDataSettings(train_annotations=str(tmp_path)), "train")
    assert [record.path.name for record in found.images] == [expected]
    assert found.counts[voc.UNANNOTATED] == len(images) - 1


OBJECTS = {
    ("", 1, 1, 9, 9): "has no name",
    ("a", "x", 1, 9, 9): "has xmin 'x', which is no number",
    ("b", 1, "nan", 9, 9): "has ymin 'nan', which is no finite number",
    ("c", 9, 1, 1, 9): "whose end is before its start: 9 1 1 9",
    ("e", "1e9999999", 1, 9, 9): "has xmin '1e9999999', which is no finite number",
    ("f", "1_0", 1, 90, 9): "has xmin '1_0', which is no number",
    ("g", "1" * 31, 1, 9, 9): "which is no number",
    ("d", 1, 1, 9, 9, "<difficult>2</difficult>"): "has difficult '2'",
}
FILES = {
    "": "is not XML: no element found",
    "<annotation>": "is not XML",
    "<doc/>": "its root is <doc>",
    "<annotations/>": "looks like CVAT's own XML",
    "<annotation>" + "<a>" * 200: "nested too deeply",
    '<!DOCTYPE a [<!ENTITY b "b">]><annotation>&b;</annotation>': "has a document type declaration",
    '<!DOCTYPE a SYSTEM "http://127.0.0.1/x.dtd"><annotation/>': "has a document type declaration",
    "<?xml version='1.0' encoding='x'?><annotation/>": "is not XML",
    "<annotation><object><name>a</name></object></annotation>": "has no bndbox",
    "<annotation><object><name>a</name><bndbox><xmin>1</xmin></bndbox></object></annotation>": "without ymin",
}


def test_faults_are_all_named(tmp_path: Path) -> None:
    data = data_set(tmp_path, WHOLE, xml(*OBJECTS), *FILES)
    text(tmp_path / "Annotations" / "z.xml", WHOLE)
    with pytest.raises(DataError) as raised:
        read_annotations(data, "train")
    expected = [*OBJECTS.values(), *FILES.values(), "has no image"]
    assert len(raised.value.faults) == len(expected)
    for words in expected:
        assert any(words in fault.what for fault in raised.value.faults), words
    assert raised.value.faults[0].place == "object 1 (line 2)"


def test_list_of_a_split_names_files(tmp_path: Path) -> None:
    data = data_set(tmp_path, WHOLE, WHOLE)
    text(tmp_path / "ImageSets/Main/train.txt", "0 1\n1.jpg\ngone\n")
    faults = []
    assert len(read_annotations(data, "train", faults).images) == 2
    assert [(fault.place, fault.what) for fault in faults] == [("line 3", "names 'gone', which has no XML file")]


def test_list_of_a_split_stays_in_the_data(tmp_path: Path) -> None:
    data = data_set(tmp_path / "set", WHOLE)
    text(tmp_path / "outside.xml", WHOLE)
    names = ["../../outside", str(tmp_path / "outside"), "a" * 300]
    text(tmp_path / "set/ImageSets/Main/train.txt", "0\n" + "\n".join(names))
    faults = []
    assert len(read_annotations(data, "train", faults).images) == 1
    for fault, words in zip(faults, ["which leaves", "which leaves", "which has no XML file"], strict=True):
        assert words in fault.what


@pytest.mark.parametrize("filename", ["/", "..", "a/..", "\\"])
def test_names_of_folders_are_no_images(filename: str, tmp_path: Path) -> None:
    text(tmp_path / "a.xml", xml(("cat", 1, 1, 9, 9), filename=filename))
    found = read_annotations(EvalDataSettings(train_annotations=str(tmp_path)), "train", need_images=False)
    assert [record.file_name for record in found.images] == ["a"]


def test_without_a_size_boxes_tell_the_layout(shared: Path, tmp_path: Path) -> None:
    """As for COCO: a box that only the stored image holds."""
    photo = shared / "cases" / "formats" / "exif6.jpg"
    (tmp_path / "a.jpg").write_bytes(photo.read_bytes())
    with Image.open(photo) as stored:
        width, height = stored.size
    end = max(width, height)
    box = (1, 1, end, 9) if width > height else (1, 1, 9, end)
    text(tmp_path / "a.xml", xml(("cat", *box), size=("", "")))
    record = read_annotations(EvalDataSettings(train_annotations=str(tmp_path)), "train").images[0]
    assert (record.width, record.height, record.upright) == (width, height, False)
    assert max(record.boxes[0]) == end
