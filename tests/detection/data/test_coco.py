"""Reading ground truth: what is accepted, what is counted, and what each error says."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from detection.data.annotations import UNSIZED, clip_boxes
from detection.data.coco import load_annotations
from detection.data.coco_entries import STRIPPED
from divdet.engine.errors import UserError


def ground_truth() -> dict:
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 100, "height": 50},
            {"id": 3, "file_name": "sub/b.jpg", "width": 20, "height": 20},
            {"id": 9, "file_name": "c.jpg"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [10, 10, 20, 30], "area": 333.5, "iscrowd": 0},
            {"id": 2, "image_id": 3, "category_id": 1, "bbox": [0.5, 0.25, 19.5, 19.75], "area": 100, "iscrowd": 1},
            {"id": 77, "image_id": 7, "category_id": 1, "bbox": [90.5, 40, 30, 5.5]},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.jpg", "c.jpg"):
        (images / name).touch()
    return images


def write(folder: Path, content: object) -> Path:
    path = folder.parent / "val.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def error_of(folder: Path, content: object) -> str:
    path = write(folder, content)
    with pytest.raises(UserError) as error:
        load_annotations(path, folder)
    text = str(error.value)
    assert len(text) < 600
    return text.removeprefix(str(folder.parent) + "/")


def test_records_in_file_order_with_labels_by_ascending_category_id(folder: Path) -> None:
    annotations = load_annotations(write(folder, ground_truth()), folder)
    assert annotations.category_ids == [1, 18, 90]
    assert annotations.names == ["person", "dog", "toothbrush"]
    first, second, third = annotations.images
    assert (first.id, second.id, third.id) == (7, 3, 9)
    assert (first.width, first.height, third.width, third.height) == (100, 50, None, None)
    assert second.path == folder / "sub/b.jpg"
    assert first.boxes.dtype == np.float32
    assert first.boxes.tolist() == [[10, 10, 30, 40], [90.5, 40, 100, 45.5]]
    assert first.labels.dtype == np.int64
    assert first.labels.tolist() == [1, 0]
    assert first.crowd.tolist() == [False, False]
    assert second.crowd.tolist() == [True]
    assert third.boxes.shape == (0, 4)
    assert annotations.counts == {"boxes partly outside their image clipped": 1, UNSIZED: 1}
    assert annotations.describe() == (
        "3 images (1 without objects), 3 boxes (1 crowd), 3 categories; 1 class without objects ('toothbrush'); "
        "1 boxes partly outside their image clipped; 1 images of no usable width and height, whose boxes "
        "are cut at the border when the image is read"
    )


def test_unsound_boxes_leave_the_records_but_not_the_evaluation(folder: Path) -> None:
    data = ground_truth()
    for number, bbox in enumerate(
        [[5, 5, 0, 9], [5, 5, -3, 9], [90, 5, 1e-9, 5], [100, 5, 10, 5], [-20, -20, 5, 5], [0, 0, 100.005, 50]], 100
    ):
        data["annotations"].insert(0, {"id": number, "image_id": 7, "category_id": 1, "bbox": bbox})
    # The size of this image is unknown, so nothing is outside it.
    data["annotations"].append({"id": 200, "image_id": 9, "category_id": 1, "bbox": [-5, 2000, 10, 10]})
    annotations = load_annotations(write(folder, data), folder)
    assert annotations.counts == {
        "boxes of zero or negative size dropped": 3,
        "boxes outside their image dropped": 2,
        "boxes partly outside their image clipped": 1,
        UNSIZED: 1,
    }
    assert len(annotations.images[0].boxes) == 3
    assert annotations.images[0].boxes[0].tolist() == [0, 0, 100, 50]
    assert annotations.images[2].boxes.tolist() == [[-5, 2000, 5, 2010]]
    given, truth = data["annotations"], annotations.truth
    assert truth.bbox.tolist() == [entry["bbox"] for entry in given]
    assert truth.area[0] == pytest.approx(100.005 * 50)
    assert truth.crowd.tolist() == [0] * 7 + [1, 0, 0]
    assert [annotations.category_ids[label] for label in truth.label] == [entry["category_id"] for entry in given]
    assert [annotations.images[image].id for image in truth.image] == [entry["image_id"] for entry in given]


def test_annotations_need_no_ids_and_no_image_folder(tmp_path: Path) -> None:
    data = ground_truth()
    for entry in data["annotations"]:
        del entry["id"]
    annotations = load_annotations(write(tmp_path / "images", data), None)
    assert len(annotations.truth.area) == 3


def changed(part: str, index: int, **values: object) -> dict:
    data = ground_truth()
    data[part][index].update(values)
    return data


def without(part: str, key: str) -> dict:
    data = ground_truth()
    del data[part][1][key]
    return data


def replaced(**values: object) -> dict:
    return {**ground_truth(), **values}


NOT_FOUR = "which is not four finite numbers"
CASES = {
    "unknown category": (
        changed("annotations", 2, category_id=91),
        "val.json: annotations[2] (id 77) has category_id 91, which categories does not list; "
        "add the category or remove the annotation",
    ),
    "unknown image": (changed("annotations", 2, image_id=8), "annotations[2] (id 77) has image_id 8, which images"),
    "two images of one id": (changed("images", 1, id=7), "images[1] (id 7) has id 7, which an earlier image has"),
    "two categories of one id": (changed("categories", 2, id=1), "categories[2] (id 1) has id 1, which an earlier"),
    "two annotations of one id": (changed("annotations", 2, id=1), "annotations[2] (id 1) has id 1, which an earlier"),
    "NaN": (changed("annotations", 0, bbox=[1, float("nan"), 3, 4]), f"(id 1) has bbox [1, nan, 3, 4], {NOT_FOUR}"),
    "infinity": (changed("annotations", 0, bbox=[1, 2, float("inf"), 4]), NOT_FOUR),
    "huge integer": (changed("annotations", 0, bbox=[1, 2, 10**400, 4]), NOT_FOUR),
    "three numbers": (changed("annotations", 0, bbox=[1, 2, 3]), NOT_FOUR),
    "text for a bbox": (changed("annotations", 0, bbox="1, 2, 3, 4"), f"has bbox '1, 2, 3, 4', {NOT_FOUR}"),
    "text in a bbox": (changed("annotations", 0, bbox=[1, 2, 3, "4 px"]), NOT_FOUR),
    "NaN as text": (changed("annotations", 0, bbox=[1, 2, 3, "nan"]), NOT_FOUR),
    "a turned box": (changed("annotations", 0, bbox=[1, 2, 3, 4, 0.5]), NOT_FOUR),
    "truth in a bbox": (changed("annotations", 0, bbox=[1, 2, 3, True]), NOT_FOUR),
    "null bbox": (changed("annotations", 0, bbox=None), f"has bbox None, {NOT_FOUR}"),
    "NaN area": (changed("annotations", 0, area=float("nan")), "has area nan, which is not a finite number"),
    "text area": (changed("annotations", 0, area="9 px"), "has area '9 px', which is not a finite number"),
    "crowd of 2": (changed("annotations", 0, iscrowd=2), "has iscrowd 2, which is neither 0 nor 1"),
    "crowd list": (changed("annotations", 0, iscrowd=[]), "has iscrowd [], which is neither 0 nor 1"),
    "float id": (changed("annotations", 0, category_id=1.5), "has category_id 1.5, which is not an integer"),
    "truth for an id": (changed("images", 0, id=True), "images[0] has id True, which is not an integer"),
    "text for an id": (changed("annotations", 0, image_id="a7"), "has image_id 'a7', which is not an integer"),
    "list for an id": (changed("annotations", 0, id=[1]), "annotations[0] has id [1], which is not an integer"),
    "annotation id beyond 64 bits": (changed("annotations", 0, id=2**64), "does not fit 64 bits: renumber the file"),
    "id beyond 64 bits": (changed("images", 0, id=2**64), "which does not fit 64 bits: renumber the file"),
    "no image_id": (without("annotations", "image_id"), "annotations[1] (id 2) has no image_id"),
    "no category_id": (without("annotations", "category_id"), "annotations[1] (id 2) has no category_id"),
    "no bbox": (without("annotations", "bbox"), "annotations[1] (id 2) has no bbox"),
    "no image id": (without("images", "id"), "images[1] has no id"),
    "no file_name": (without("images", "file_name"), "images[1] (id 3) has no file_name"),
    "no category id": (without("categories", "id"), "categories[1] has no id"),
    "no name": (without("categories", "name"), "categories[1] (id 1) has no name"),
    "number for a name": (changed("categories", 1, name=5), "categories[1] (id 1) has name 5, which is not text"),
    "line break in a name": (changed("categories", 1, name="a\nb"), "has name 'a\\nb', which is empty or holds"),
    "line separator in a name": (changed("categories", 1, name="a\u2028b"), "'a\\u2028b', which is empty or"),
    "next line in a name": (changed("categories", 1, name="a\x85b"), "'a\\x85b', which is empty or holds"),
    "reversed name": (changed("categories", 1, name="a\u202eb"), "'a\\u202eb', which is empty or holds"),
    "isolated name": (changed("categories", 1, name="\u2066b"), "'\\u2066b', which is empty or holds"),
    "coloured name": (changed("categories", 1, name="\x1b[31mb"), "'\\x1b[31mb', which is empty or holds"),
    "blank name": (changed("categories", 1, name=" \ufeff\n"), "which is empty or holds"),
    "endless width": (changed("images", 0, width=10**12), "(id 7) has width 1000000000000, which is not a positive"),
    "text height": (changed("images", 0, height="50 px"), "has height '50 px', which is not a positive integer"),
    "number for a file": (changed("images", 0, file_name=5), "images[0] (id 7) has file_name 5, which is no file's"),
    "zero byte in a file name": (changed("images", 0, file_name="a.jpg\0"), "which is no file's name"),
    "line break in a file name": (changed("images", 0, file_name="a\n.jpg"), "which is no file's name"),
    "lone surrogate in a file name": (changed("images", 0, file_name="\ud800.jpg"), "which is no file's name"),
    "empty file name": (changed("images", 0, file_name=""), "which is no file's name"),
    "parent folder": (changed("images", 0, file_name="../x.jpg"), "'../x.jpg', which leaves the image folder"),
    "hidden parent folder": (changed("images", 0, file_name="sub/../../x.jpg"), "which leaves the image folder"),
    "absolute": (changed("images", 0, file_name="/etc/passwd"), "'/etc/passwd', which leaves the image folder"),
    "missing image": (changed("images", 1, file_name="x.jpg"), "(id 3) has file_name 'x.jpg', which is not in"),
    "another suffix": (changed("images", 0, file_name="a.png"), "images (but 'a.jpg' is); correct the image folder"),
    "folder for an image": (changed("images", 1, file_name="sub"), "has file_name 'sub', which is not in"),
    "overlong file name": (changed("images", 1, file_name="x" * 5000), "which is not in"),
    "no images": (replaced(images=[], annotations=[]), "val.json: lists no images"),
    "no categories": (replaced(categories=[], annotations=[]), "val.json: lists no categories"),
    "images is an object": (replaced(images={}), "val.json: images is an object, not a list"),
    "annotations is null": (replaced(annotations=None), "val.json: annotations is null, not a list"),
    "an image that is a number": (replaced(images=[4], annotations=[]), "images[0] is a number, not an object"),
    "not an object": ([1, 2], "val.json: not COCO ground truth: it has no images, annotations, categories"),
    "no annotations": ({"images": [], "categories": []}, "val.json: not COCO ground truth: it has no annotations"),
    "not JSON": ('{"images": [\n 1,, 2]}', "val.json: not JSON: Expecting value at line 2, column 4"),
    "empty file": ("", "val.json: not JSON: Expecting value at line 1, column 1"),
    "nested too deeply": ("[" * 200_000, "val.json: its JSON is nested too deeply"),
    "endless digits": ('{"images": ' + "1" * 10_000 + "}", "val.json: not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_ground_truth_is_said_clearly(folder: Path, case: str) -> None:
    content, expected = CASES[case]
    assert expected in error_of(folder, content)


def test_white_space_around_names_is_left_out_and_counted(folder: Path) -> None:
    data = ground_truth()
    for category, name in zip(data["categories"], ("\ufeffa b", "c\r\n", "d"), strict=True):
        category["name"] = name
    annotations = load_annotations(write(folder, data), folder)
    assert sorted(annotations.names) == ["a b", "c", "d"]
    assert annotations.counts[STRIPPED] == 2


def test_each_missing_image_is_named(folder: Path) -> None:
    (folder / "a.jpg").unlink()
    (folder / "c.jpg").unlink()
    text = error_of(folder, ground_truth())
    assert text.startswith("2 faults in the data:\n")
    assert f"images[0] (id 7) has file_name 'a.jpg', which is not in {folder}" in text
    assert f"images[2] (id 9) has file_name 'c.jpg', which is not in {folder}" in text
    (folder / "sub/b.jpg").unlink()
    assert "val.json: lists 3 images, none of which is in" in error_of(folder, ground_truth())


def test_a_link_out_of_the_image_folder_is_refused(folder: Path) -> None:
    (folder.parent / "secret.jpg").touch()
    (folder / "link.jpg").symlink_to(folder.parent / "secret.jpg")
    assert "'link.jpg', a link out of the image folder" in error_of(folder, changed("images", 0, file_name="link.jpg"))
    (folder / "away").symlink_to(folder.parent)
    text = error_of(folder, changed("images", 0, file_name="away/secret.jpg"))
    assert "'away/secret.jpg', a link out of the image folder" in text


def test_links_inside_and_a_linked_image_folder_are_fine(folder: Path) -> None:
    (folder / "link.jpg").symlink_to("a.jpg")
    (folder.parent / "linked").symlink_to(folder)
    path = write(folder, changed("images", 0, file_name="link.jpg"))
    assert load_annotations(path, folder.parent / "linked").images[0].path == folder.parent / "linked/link.jpg"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.json: cannot be read: No such file"):
        load_annotations(tmp_path / "absent.json", tmp_path)
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load_annotations(tmp_path, tmp_path)
    (tmp_path / "picture.json").write_bytes(b"\xff\xd8\xff\xe0\x80")
    with pytest.raises(UserError, match=r"picture\.json: not JSON: "):
        load_annotations(tmp_path / "picture.json", tmp_path)
    path = write(tmp_path / "images", ground_truth())
    with pytest.raises(UserError, match="nowhere: not a folder"):
        load_annotations(path, tmp_path / "nowhere")


def test_clip_boxes() -> None:
    boxes = np.array([[-5, -5, 5, 5], [2, 2, 30, 8], [10, 0, 12, 5], [1, 1, 2, 2]], np.float32)
    clipped, kept = clip_boxes(boxes, 10, 6)
    assert clipped.tolist() == [[0, 0, 5, 5], [2, 2, 10, 6], [10, 0, 10, 5], [1, 1, 2, 2]]
    assert kept.tolist() == [True, True, False, True]
    assert clipped.dtype == np.float32
    assert boxes[0, 0] == -5
    per_box, _ = clip_boxes(boxes, np.array([4, 40, 40, 40]), np.array([6, 6, 6, 6]))
    assert per_box.tolist() == [[0, 0, 4, 5], [2, 2, 30, 6], [10, 0, 12, 5], [1, 1, 2, 2]]
    assert clip_boxes(boxes[:0], 10, 6)[0].shape == (0, 4)


def test_real_files_agree_with_a_plain_reading(shared: Path) -> None:
    path = shared / "data/coco_ccby/annotations/instances_train.json"
    annotations = load_annotations(path, shared / "data/coco_ccby/images")
    data = json.loads(path.read_text())
    per_image = Counter(entry["image_id"] for entry in data["annotations"])
    assert {image.id: len(image.boxes) for image in annotations.images if len(image.boxes)} == per_image
    ids = {category["id"]: category["name"] for category in data["categories"]}
    position = {image.id: index for index, image in enumerate(annotations.images)}
    taken = Counter()
    for entry in data["annotations"]:
        record = annotations.images[position[entry["image_id"]]]
        row = taken[record.id]
        taken[record.id] += 1
        x, y, w, h = entry["bbox"]
        np.testing.assert_allclose(record.boxes[row], [x, y, x + w, y + h], atol=0.02)
        assert annotations.names[record.labels[row]] == ids[entry["category_id"]]
        assert record.crowd[row] == entry["iscrowd"]
    truth = annotations.truth
    for ours, key in ((truth.bbox, "bbox"), (truth.area, "area"), (truth.crowd, "iscrowd")):
        assert ours.tolist() == [entry[key] for entry in data["annotations"]]
