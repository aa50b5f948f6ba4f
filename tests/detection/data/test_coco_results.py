"""What a results file may hold, and what a user sees where it holds something else."""

import gzip
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools import mask

import divdet
from detection.data.annotations import CocoAnnotations
from detection.data.coco import load_annotations
from detection.data.coco_results import Results, load_results
from divdet.engine.errors import UserError

GOOD = {"image_id": 2**40 + 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}
BAD_RESULTS = {
    "not a list": ({"images": []}, "detections is an object, not a list: COCO results are [{image_id, "),
    "not objects": ([[1, 2]], "detections[0] is a list, not an object"),
    "unknown image": ([GOOD, {**GOOD, "image_id": 5}], "detections[1] has image_id 5, which"),
    "unknown category": ([{**GOOD, "category_id": 2}], "detections[0] has category_id 2, which"),
    "text id": ([{**GOOD, "image_id": "5"}], "has image_id '5', which is neither id nor name of an image of"),
    "half an id": ([{**GOOD, "image_id": 7.5}], "has image_id 7.5, which is not an integer"),
    "a broken mask": ([GOOD | {"bbox": [], "segmentation": {"size": [9, 9], "counts": "a"}}], "no mask by run lengths"),
    "a mask of another size": (
        [GOOD | {"bbox": [], "segmentation": {"size": [2, 1], "counts": [1, 1]}}],
        "has a mask of size [2, 1] on an image of [height, width] [99, 99]",
    ),
    "no image": ([{key: GOOD[key] for key in ("category_id", "bbox", "score")}], "detections[0] has no image_id"),
    "no bbox": ([{key: GOOD[key] for key in ("image_id", "category_id", "score")}], "detections[0] has no bbox"),
    "no score": ([{key: GOOD[key] for key in ("image_id", "category_id", "bbox")}], "detections[0] has no score"),
    "NaN score": ([{**GOOD, "score": math.nan}], "has score nan, which is not a finite number"),
    "endless score": ([{**GOOD, "score": 10**400}], "which is not a finite number"),
    "null score": ([{**GOOD, "score": None}], "has score None, which is not a finite number"),
    "infinite box": ([{**GOOD, "bbox": [1, 2, math.inf, 4]}], "which is not four finite numbers"),
    "three numbers": ([{**GOOD, "bbox": [1, 2, 4]}], "which is not four finite numbers"),
    "true for a number": ([{**GOOD, "bbox": [1, 2, True, 4]}], "which is not four finite numbers"),
    "true for an id": ([{**GOOD, "category_id": True}], "has category_id True, which is not an integer"),
    "text for a box": ([{**GOOD, "bbox": "1234"}], "which is not four finite numbers"),
    "an object for a score": ([{**GOOD, "score": {}}], "which is not a finite number"),
    "negative width": ([{**GOOD, "bbox": [1, 2, -3, 4]}], "of negative size"),
    "far away": ([{**GOOD, "bbox": [1e10, 2, 3, 4]}], "which is not four finite numbers"),
}


@pytest.fixture
def annotations(tmp_path: Path) -> CocoAnnotations:
    """Two images, one of an id beyond float32; categories with gaps between their ids."""
    images = [{"id": number, "width": 99, "height": 99, "file_name": f"{number}.jpg"} for number in (7, 2**40 + 1)]
    categories = [{"id": number, "name": f"thing {number}"} for number in (1, 3, 17)]
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "categories": categories, "annotations": []}))
    return load_annotations(tmp_path / "truth.json", None)


def read(folder: Path, results: Any, annotations: CocoAnnotations) -> Results:
    (folder / "results.json").write_text(json.dumps(results))
    return load_results(folder / "results.json", annotations)


@pytest.mark.parametrize("case", BAD_RESULTS)
def test_bad_results_are_one_clear_line(tmp_path: Path, annotations: CocoAnnotations, case: str) -> None:
    content, expected = BAD_RESULTS[case]
    with pytest.raises(UserError) as error:
        read(tmp_path, content, annotations)
    assert str(error.value).startswith(f"{tmp_path / 'results.json'}: ")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["results.json", "results.json.gz"])
def test_compressed_results_are_told(name: str, tmp_path: Path, annotations: CocoAnnotations) -> None:
    (tmp_path / name).write_bytes(gzip.compress(json.dumps([GOOD]).encode()))
    with pytest.raises(UserError, match=rf"{name}: not JSON: it is compressed by gzip: unpack it"):
        load_results(tmp_path / name, annotations)
    with pytest.raises(UserError, match="gzip"):
        divdet.evaluate(tmp_path / name, data={"val_annotations": str(tmp_path / "truth.json")}, output=tmp_path)


def test_results_of_another_form_are_told_which_is_read(tmp_path: Path, annotations: CocoAnnotations) -> None:
    file = tmp_path / "results.pkl"  # mmdetection's --out
    file.write_bytes(pickle.dumps([{"img_id": 7}]))
    for path in (file, tmp_path):
        with pytest.raises(UserError, match=rf"^{path}: is no COCO results file, a \.json: mmdetection writes one by"):
            load_results(path, annotations)
    with pytest.raises(UserError, match=r"none\.pkl: cannot be read: No such file"):
        load_results(tmp_path / "none.pkl", annotations)


def test_results_may_be_empty_or_hold_more_keys(tmp_path: Path, annotations: CocoAnnotations) -> None:
    assert len(read(tmp_path, [], annotations)) == 0
    loaded = read(tmp_path, [{**GOOD, "segmentation": [], "id": 0}], annotations)
    assert annotations.images[loaded.image[0]].id == GOOD["image_id"]
    assert annotations.category_ids[loaded.label[0]] == GOOD["category_id"]
    assert loaded.bbox.tolist() == [GOOD["bbox"]]
    assert loaded.score.tolist() == [GOOD["score"]]


def test_repeated_detections_and_scores_that_rank_nothing_are_said(
    tmp_path: Path, annotations: CocoAnnotations, capsys: pytest.CaptureFixture[str]
) -> None:
    read(tmp_path, [GOOD, GOOD | {"score": 0.4}, GOOD | {"category_id": 17}], annotations)
    assert not capsys.readouterr().out
    assert len(read(tmp_path, [GOOD, GOOD | {"score": 0.4}, GOOD, GOOD], annotations)) == 4
    assert "has 2 detections equal in everything to another one" in capsys.readouterr().out
    read(tmp_path, [GOOD, GOOD | {"category_id": 17}], annotations)
    assert "gives all 2 detections the score 0.5, which ranks nothing" in capsys.readouterr().out


@pytest.mark.parametrize(("image_id", "category_id"), [(7.0, 3.0), ("7", "3"), ("7.0", 3)])
def test_ids_may_be_floats_or_text(
    tmp_path: Path, annotations: CocoAnnotations, image_id: float | str, category_id: float | str
) -> None:
    loaded = read(tmp_path, [GOOD | {"image_id": image_id, "category_id": category_id}], annotations)
    assert annotations.images[loaded.image[0]].id == 7
    assert annotations.category_ids[loaded.label[0]] == 3


def test_a_mask_alone_has_the_box_around_it(
    tmp_path: Path, annotations: CocoAnnotations, capsys: pytest.CaptureFixture[str]
) -> None:
    polygon = [10, 20, 31, 20, 31, 60]
    encoded = mask.frPyObjects([polygon], 99, 99)[0]
    rest = {key: GOOD[key] for key in ("image_id", "category_id", "score")}
    run_lengths = {"size": [99, 99], "counts": encoded["counts"].decode()}
    loaded = read(tmp_path, [rest | {"segmentation": form} for form in ([polygon], run_lengths)], annotations)
    assert loaded.bbox.tolist() == [[10, 20, 21, 40], mask.toBbox(encoded).tolist()]
    assert "2 boxes computed from segmentations" in capsys.readouterr().out


def named(folder: Path, *names: str) -> CocoAnnotations:
    """Ground truth of images 101, 102, …, by file name."""
    images = [{"id": number, "file_name": name} for number, name in enumerate(names, 101)]
    categories = [{"id": 3, "name": "box"}, {"id": 4, "name": "disc"}]
    (folder / "named.json").write_text(json.dumps({"images": images, "categories": categories, "annotations": []}))
    return load_annotations(folder / "named.json", None)


MATCHES = {
    "the same name": (("a.jpg", "b.jpg"), "b.jpg", 102),
    "the image folder before it": (("a/1.jpg", "b/1.jpg"), "/data/b/1.jpg", 102),
    "the image folder in the annotations": (("val/1.jpg", "val/2.jpg"), "2.jpg", 102),
    "most folders in common": (("1.jpg", "b/1.jpg"), "/data/b/1.jpg", 102),
    "another folder": (("a/1.jpg", "a/2.jpg"), "photos/2.jpg", 102),
    "another case": (("a/1.JPG", "a/2.JPG"), "a/2.jpg", 102),
    "Label Studio's hash": (("upload/4/a1b2c3d4-1.jpg", "upload/4/b1b2c3d4-2.jpg"), "2.jpg", 102),
    "URL encoding": (("a/1%20x.jpg", "a/2%20x.jpg"), "/data/a/2 x.jpg", 102),
    "a path of Windows": (("a/1.jpg", "b/1.jpg"), "D:\\data\\b\\1.jpg", 102),
}


@pytest.mark.parametrize("case", MATCHES)
@pytest.mark.parametrize("image_id", [{}, {"image_id": "b_2"}, {"image_id": 102}])
def test_the_file_name_tells_the_image(tmp_path: Path, case: str, image_id: dict) -> None:
    names, name, expected = MATCHES[case]
    annotations = named(tmp_path, *names)
    entry = {"file_name": name, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5} | image_id
    assert annotations.images[read(tmp_path, [entry], annotations).image[0]].id == expected


@pytest.mark.parametrize(("given", "expected"), [({}, 101), ({"image_id": 103}, 103), ({"image_id": 101}, 101)])
def test_images_of_one_file_are_told_by_their_id(tmp_path: Path, given: dict, expected: int) -> None:
    annotations = named(tmp_path, "a.jpg", "b.jpg", "a.jpg")
    entry = {"file_name": "a.jpg", "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5} | given
    assert annotations.images[read(tmp_path, [entry], annotations).image[0]].id == expected


def test_a_match_by_base_name_alone_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = named(tmp_path, "a/1.jpg", "a/2.jpg", "a/3.jpg")
    rest = {"category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}
    read(tmp_path, [{"file_name": name} | rest for name in ("/data/a/1.jpg", "b/2.jpg", "3.jpg")], annotations)
    assert "1 file names matched by base name alone, such as 'b/2.jpg' as 'a/2.jpg'" in capsys.readouterr().out


def test_the_number_in_a_name_is_no_image_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """detect.py writes it where it knows no ids; here it is the id of another image."""
    annotations = named(tmp_path, "102.jpg", "101.jpg")
    entry = {"image_id": 102, "file_name": "102.jpg", "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}
    assert annotations.images[read(tmp_path, [entry], annotations).image[0]].id == 101
    assert "images are matched by the names of their files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "expected"), [("b_x.rf.12", 102), ("103", 103), ("0007", 104), ("b_x.rf.12.jpg", 102)]
)
def test_an_image_id_of_text_is_the_name_or_the_number(tmp_path: Path, text: str, expected: int) -> None:
    """Older ultralytics writes the name without its suffix, and no file_name."""
    annotations = named(tmp_path, "a.jpg", "v/b_x.rf.12.jpg", "c.jpg", "0007.jpg")
    entry = {"image_id": text, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}
    assert annotations.images[read(tmp_path, [entry], annotations).image[0]].id == expected


CONTRADICTIONS = {
    "text that is an id, and another image's name": ({"image_id": "105"}, "which fits several images by id or name of"),
    "text that is two images' name": ({"image_id": "1"}, "which fits several images by id or name of"),
    "another image's id": (
        {"image_id": 101, "file_name": "b.jpg"},
        "which contradict each other: that file is image 102",
    ),
    "an unknown id": ({"image_id": 7, "file_name": "b.jpg"}, "which contradict each other"),
    "another image's id as text": ({"image_id": "101", "file_name": "b.jpg"}, "which contradict each other"),
    "an unknown file": ({"image_id": 101, "file_name": "d.jpg"}, "has file_name 'd.jpg', which no image of"),
    "two that fit": ({"file_name": "1.jpg"}, "has file_name '1.jpg', which fits 'x/1.jpg' and 'y/1.jpg' of"),
    "two that fit, and a number of the name": ({"image_id": 1, "file_name": "1.jpg"}, "which fits 'x/1.jpg' and"),
    "no name": ({"image_id": 101, "file_name": 5}, "has file_name 5, which is not text"),
    "no number": ({"image_id": 1.5, "file_name": "b.jpg"}, "has image_id 1.5, which is not an integer"),
    "another category's name": ({"image_id": 101, "category": "disc"}, "category 'disc', which has another id in"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_entries_that_contradict_themselves_are_refused(tmp_path: Path, case: str) -> None:
    keys, expected = CONTRADICTIONS[case]
    annotations = named(tmp_path, "a.jpg", "b.jpg", "x/1.jpg", "y/1.jpg", "c.jpg", "105.jpg")
    with pytest.raises(UserError) as error:
        read(tmp_path, [{"category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5} | keys], annotations)
    assert expected in str(error.value)


def test_two_files_are_not_one_image(tmp_path: Path) -> None:
    annotations = named(tmp_path, "val/1.jpg")
    rest = {"category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}
    with pytest.raises(
        UserError, match=r"detections\[1\] has file_name 'train/1.jpg', and another 'val/1.jpg': both fit"
    ):
        read(tmp_path, [{"file_name": "val/1.jpg"} | rest, {"file_name": "train/1.jpg"} | rest], annotations)


def test_a_file_that_is_listed_twice_goes_by_its_ids(tmp_path: Path) -> None:
    annotations = named(tmp_path, "a.jpg", "a.jpg")
    rest = {"category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}
    entries = [{"image_id": number, "file_name": "a.jpg"} | rest for number in (102, 101)]
    assert read(tmp_path, entries, annotations).image.tolist() == [1, 0]


def test_ids_that_may_be_the_numbers_of_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ultralytics takes the number in a file's name as image_id, whatever the annotations say."""
    for shift, said in ((0, False), (1, True), (100, False)):
        images = [{"id": n + shift, "width": 99, "height": 99, "file_name": f"{n:03}.jpg"} for n in range(9)]
        truth = {"images": images, "categories": [{"id": 3, "name": "thing"}], "annotations": []}
        (tmp_path / "shifted.json").write_text(json.dumps(truth))
        annotations = load_annotations(tmp_path / "shifted.json", None)
        read(tmp_path, [GOOD | {"image_id": n + shift} for n in (2, 3)], annotations)
        assert ("names images by image_id alone" in capsys.readouterr().out) == said
        read(tmp_path, [GOOD | {"image_id": n + shift} for n in range(9)], annotations)  # 9 is in no name
        assert "names images by image_id alone" not in capsys.readouterr().out
        read(tmp_path, [GOOD | {"image_id": 2 + shift, "file_name": "002.jpg"}], annotations)
        assert "names images by image_id alone" not in capsys.readouterr().out


# Of the fixture's images 99 pixels a side, with categories 1, 3 and 17
YOLO = {
    "five columns": ("0 0.5 0.5 0.2 0.4", "line 2 has 5 columns: a detection is class cx cy w h confidence"),
    "an id of a track": ("0 0.5 0.5 0.2 0.4 0.9 1", "line 2 has 7 columns"),
    "another class": ("7 0.5 0.5 0.2 0.4 0.9", "line 2 has class 7, which the annotations do not have: they are 0 to "),
    "pixels": ("0 50 50 20 40 0.9", "line 2 has a box that is no fractions of the image"),
    "a name": ("cat 0.5 0.5 0.2 0.4 0.9", "line 2 has a word that is no number"),
    "nan": ("0 0.5 nan 0.2 0.4 0.9", "line 2 has a box that is no fractions"),
    "a track's id for the confidence": ("0 0.5 0.5 0.2 0.4 2", "line 2 has confidence 2: it must be 0 to 1"),
    "no confidence": ("0 0.5 0.5 0.2 0.4 nan", "line 2 has confidence nan"),
}


def test_a_folder_of_yolos_predictions_is_read(
    tmp_path: Path, annotations: CocoAnnotations, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "predict/labels"
    labels.mkdir(parents=True)
    with pytest.raises(UserError, match=r"predict: is no COCO results file, .* or give the folder that yolo predict"):
        load_results(tmp_path / "predict", annotations)
    (labels / "7.txt").write_text("1 0.5 0.25 0.2 0.1 0.75\n\n0 0.1 0.1 0.2 0.2 0.5\n")
    (labels.parent / "classes.txt").write_text("cat\n")  # as of divdet detect --save yolo
    for folder in (labels, labels.parent):
        found = load_results(folder, annotations)
        assert (found.image.tolist(), found.label.tolist(), found.score.tolist()) == ([0, 0], [1, 0], [0.75, 0.5])
        assert found.bbox[0].tolist() == pytest.approx([0.4 * 99, 0.2 * 99, 0.2 * 99, 0.1 * 99])
    capsys.readouterr()
    (labels / "7.txt").write_text("0 0.5 0.5 0.2 0.4 0.9\n" * 3)  # yolo appends to the file of an earlier run
    load_results(labels, annotations)
    assert "has 2 detections equal in everything to another one" in capsys.readouterr().out
    for line, message in YOLO.values():
        (labels / "7.txt").write_text(f"0 0.5 0.5 0.2 0.4 0.9\n{line}\n")
        with pytest.raises(UserError, match=rf"7\.txt: {message}"):
            load_results(labels, annotations)
    (labels / "7.txt").rename(labels / "8.txt")
    with pytest.raises(UserError, match=r"8\.txt: is of no image of "):
        load_results(labels, annotations)


def test_yolos_predictions_are_numbered_as_its_data_yaml(tmp_path: Path) -> None:
    for folder in ("images", "labels", "predict"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (200, 100)).save(tmp_path / "images/a.jpg")
    (tmp_path / "labels/a.txt").write_text("2 0.5 0.5 0.2 0.4\n")
    (tmp_path / "predict/a.txt").write_text("2 0.5 0.5 0.2 0.4 0.9\n")
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: {0: a, 2: c}\n")
    data = {"val_annotations": str(tmp_path / "data.yaml")}
    others = {"compare": str(tmp_path / "predict"), "output": str(tmp_path / "out")}
    found = divdet.evaluate(tmp_path / "predict", data=data, **others)
    assert found["comparison"]["AP"]["value"] == 0
    for name, fault in (("images", "holds no results"), ("none.json", "is not there")):
        with pytest.raises(UserError, match=rf"compare is .*{name}, which {fault}: give a COCO results file, or a fol"):
            divdet.evaluate(tmp_path / "predict", data=data, **others | {"compare": str(tmp_path / name)})
    assert found["per_class"] == {"a": None, "c": pytest.approx(1)}
