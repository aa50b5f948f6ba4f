"""What users do with detections: compare, select, draw, and hand them to other libraries."""

import copy
import csv
import io
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detection.detections import Detections
from detection.drawing import draw_boxes
from divdet.engine.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
BOXES = [[10.004, 5.006, 20.0, 15.5], [0.0, 0.0, 50.0, 40.0], [48.6, 38.2, 49.1, 39.0]]


def some(**changes: object) -> Detections:
    values = {
        "boxes": torch.tensor(BOXES),
        "scores": torch.tensor([0.9, 0.12345678, 0.1]),
        "labels": torch.tensor([2, 0, 2]),
        "names": ["dog", "cat", "dog"],
        "category_ids": [3, 5, 8],
        "source": IMAGE,
    }
    return Detections(**values | changes)


def test_equality_is_of_boxes_scores_labels_and_names() -> None:
    first = some()
    assert first == some()
    assert first in [some()]
    assert pickle.loads(pickle.dumps(first)) == copy.deepcopy(first) == copy.copy(first) == first
    assert first == some(source=None, members=(some(),), category_ids=())
    assert first != some(boxes=first.boxes + 1)
    assert first != some(scores=first.scores.double())
    assert first != some(labels=torch.tensor([2, 1, 2]))
    assert first != some(names=["dog", "cat", "cat"])
    assert first != first[:2]
    assert first != 3
    with pytest.raises(TypeError, match="unhashable type: 'Detections'"):
        hash(first)


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (0, [0]),
        (-1, [2]),
        (np.int64(1), [1]),
        (torch.tensor(1), [1]),
        (slice(None), [0, 1, 2]),
        (slice(1, None), [1, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        (slice(5, 9), []),
        ([2, 0, 0], [2, 0, 0]),
        ([], []),
        (np.array([-1, 0]), [2, 0]),
        (torch.tensor([1, 2]), [1, 2]),
        ([True, False, True], [0, 2]),
        (np.array([False, True, False]), [1]),
        (torch.tensor([False, False, False]), []),
    ],
)
def test_objects_are_selected_as_in_numpy(index: object, rows: list[int]) -> None:
    found, members = some(), (some()[:1],)
    for one in (found[index], some(members=members)[index]):
        assert one.boxes.equal(found.boxes[rows])
        assert one.scores.equal(found.scores[rows])
        assert one.labels.equal(found.labels[rows])
        assert one.names == [found.names[row] for row in rows]
        assert (len(one), one.source is IMAGE, one.category_ids) == (len(rows), True, [3, 5, 8])
    assert some(members=members)[index].members is members


@pytest.mark.parametrize(
    "index",
    [3, -4, [0, 3], torch.tensor([3]), [True, False], torch.ones(4).bool(), 0.5, "a", [[0]], [[]], True, (0, 1), None],
)
def test_what_selects_nothing_is_an_index_error(index: object) -> None:
    with pytest.raises(IndexError):
        some()[index]


def test_lists_and_arrays_are_taken() -> None:
    found = Detections([[1, 2, 30, 40]], [0.5], np.array([3]), ["a"])
    assert found.to_json() == '[{"name": "a", "label": 3, "score": 0.5, "box": [1.0, 2.0, 30.0, 40.0]}]'
    assert found == Detections(torch.tensor([[1.0, 2, 30, 40]]), torch.tensor([0.5]), torch.tensor([3]), ["a"])
    assert Detections([], [], [], []).to_json() == "[]"


def test_columns_of_other_lengths_are_refused() -> None:
    for changes in ({"scores": [0.9]}, {"names": ["dog"]}, {"labels": torch.tensor([0])}, {"boxes": torch.zeros(3, 5)}):
        with pytest.raises(UserError, match="give as many of each"):
            some(**changes)
    empty = Detections([], [], [], [])
    assert empty.boxes.shape == (0, 4)
    assert len(empty.to_supervision()) == 0


def test_iteration_is_by_object() -> None:
    assert list(some()) == [some()[index] for index in range(3)]
    assert [one.names for one in some()] == [["dog"], ["cat"], ["dog"]]


def test_the_text_is_short() -> None:
    assert repr(some()) == "Detections(3 objects: dog 0.90, cat 0.12, dog 0.10)"
    assert repr(some()[0]) == "Detections(1 object: dog 0.90)"
    assert repr(some()[:0]) == "Detections(0 objects)"
    assert repr(some()[[0] * 99]).endswith("dog 0.90, dog 0.90, …)")
    assert len(repr(some()[[0] * 99])) < 100


def test_pictures_and_crops(tmp_path: Path) -> None:
    found, before = some(), IMAGE.copy()
    drawn = found.plot()
    assert np.array_equal(drawn, draw_boxes(IMAGE, BOXES, [2, 0, 2], ["cat", "", "dog"], [0.9, 0.12345678, 0.1]))
    found.save(tmp_path / "a.png")
    found.save(str(tmp_path / "a.jpg"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), drawn)
    first, whole, tiny = found.crops()
    assert np.array_equal(first, IMAGE[5:16, 10:20])
    assert np.array_equal(whole, IMAGE)
    assert np.array_equal(tiny, IMAGE[38:39, 48:50])
    whole[:] = 0
    assert np.array_equal(IMAGE, before)
    assert found[:0].crops() == []
    outside = some(boxes=torch.tensor([[-9.0, 30.0, 5.0, 99.0], [60.0, 60.0, 70.0, 70.0], [0.0, 0.0, 0.0, 0.0]]))
    assert [crop.shape for crop in outside.crops()] == [(10, 5, 3), (1, 1, 3), (1, 1, 3)]
    with pytest.raises(UserError, match=r"\.bmp: pictures are written as"):
        found.save(tmp_path / "a.bmp")


@pytest.mark.parametrize("use", [Detections.plot, Detections.crops, lambda found: found.save("a.png")])
def test_pictures_need_an_image(use: object) -> None:
    with pytest.raises(UserError, match=r"no image to show: give it as Detections\(\.\.\., source=image\)"):
        use(some(source=None))


def test_an_image_file_is_read_again(tmp_path: Path) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(some(source=source).plot(), some().plot())


def test_coco_results_are_rounded_and_have_the_category_ids() -> None:
    assert some().to_coco(42) == [
        {"image_id": 42, "category_id": 8, "bbox": [10.0, 5.01, 10.0, 10.49], "score": 0.9},
        {"image_id": 42, "category_id": 3, "bbox": [0.0, 0.0, 50.0, 40.0], "score": 0.123457},
        {"image_id": 42, "category_id": 8, "bbox": [48.6, 38.2, 0.5, 0.8], "score": 0.1},
    ]
    assert json.loads(
        json.dumps(some(category_ids=np.array(some().category_ids)).to_coco(np.int64(42)))
    ) == some().to_coco(42)
    assert some()[:0].to_coco(42) == some(category_ids=())[:0].to_coco("a") == []
    with pytest.raises(UserError, match="have no category ids"):
        some(category_ids=()).to_coco(42)


def test_text_formats() -> None:
    names = ["naïve, “dog”", "cat\nor", "dog"]
    objects = json.loads(some(names=names).to_json())
    assert [entry["name"] for entry in objects] == names
    assert objects[0] == {"name": names[0], "label": 2, "score": 0.9, "box": [10.0, 5.01, 20.0, 15.5]}
    header, *rows = csv.reader(io.StringIO(some(names=names).to_csv()))
    assert header == ["name", "label", "score", "x1", "y1", "x2", "y2"]
    assert rows[1] == [names[1], "0", "0.123457", "0.0", "0.0", "50.0", "40.0"]
    assert len(rows) == 3
    assert some()[:0].to_json() == "[]"
    assert some()[:0].to_csv() == "name,label,score,x1,y1,x2,y2\n"


def test_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    supervision = pytest.importorskip("supervision")
    found = some().to_supervision()
    assert isinstance(found, supervision.Detections)
    assert np.array_equal(found.xyxy, np.float32(BOXES))
    assert found.confidence.tolist() == some().scores.tolist()
    assert found.class_id.tolist() == [2, 0, 2]
    assert found["class_name"].tolist() == ["dog", "cat", "dog"]
    assert found[found.confidence > 0.5]["class_name"].tolist() == ["dog"]
    assert len(some()[:0].to_supervision()) == 0


def test_supervision_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="pip install supervision"):
        some().to_supervision()


def test_torchvision() -> None:
    metric = pytest.importorskip("torchvision.ops")
    found = some().to_torchvision()
    assert set(found) == {"boxes", "labels", "scores"}
    assert metric.batched_nms(found["boxes"], found["scores"], found["labels"], 0.5).tolist() == [0, 1, 2]
