"""Fusion against ensemble-boxes, for each kind of result, and on results that do not fit."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import ensemble_boxes
import numpy as np
import pytest
import torch
from PIL import Image

import divdet
from detection import Detections, Detector, Fusion
from detection.prediction_settings import PostprocessSettings
from detection.saved import create_model
from detection.settings import ModelSettings
from divdet.engine.errors import UserError

WIDTH, HEIGHT = 80, 60
IMAGE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
SCALE = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
NAMES = ["__background__", "cat", "N/A", "dog"]


def columns(seed: int, count: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes in pixels, scores, and labels of ``NAMES``; many of the boxes overlap."""
    random = np.random.default_rng(seed)
    corners = random.integers(0, 3, (count, 2)) * 15 + random.uniform(0, 3, (count, 2))
    return np.hstack([corners, corners + 20]), random.uniform(0, 1, count), random.choice([1, 3], count)


def as_dict(seed: int, count: int = 12) -> dict[str, torch.Tensor]:
    return dict(zip(("boxes", "scores", "labels"), map(torch.from_numpy, columns(seed, count)), strict=True))


def returning(result: Any) -> Callable[[np.ndarray], Any]:
    return lambda image: result


def expected(members: list[tuple[Any, ...]], method: str = "weighted_boxes_fusion", **options: Any) -> tuple:
    boxes = [np.asarray(own[0], np.float64).reshape(-1, 4) / SCALE for own in members]
    scores, labels = ([np.asarray(own[k]) for own in members] for k in (1, 2))
    return getattr(ensemble_boxes, method)(boxes, scores, labels, **options)


def assert_fused(found: Detections, reference: tuple, labels: dict[int, int] | None = None) -> None:
    boxes, scores, classes = reference
    classes = [labels[label] for label in classes.astype(int)] if labels else classes.astype(int)
    order = np.lexsort((boxes[:, 0], -scores.round(6)))
    own = np.lexsort((found.boxes[:, 0].numpy(), -found.scores.numpy().astype(np.float64).round(6)))
    np.testing.assert_allclose(found.scores.numpy()[own], scores[order], atol=1e-5)
    np.testing.assert_allclose(found.boxes.numpy()[own], (boxes * SCALE)[order], atol=1e-3)
    assert found.labels.numpy()[own].tolist() == np.asarray(classes)[order].tolist()


def test_equals_ensemble_boxes() -> None:
    members = [columns(1), columns(2), columns(3)]
    weights, label = [2.0, 1.0, 0.5], {1: 0, 3: 1}
    detectors = [returning(as_dict(seed)) for seed in (1, 2, 3)]
    options = {"weights": weights, "iou_thr": 0.6, "skip_box_thr": 0.1}
    fusion = Fusion(detectors, conf_type="max", names=NAMES, **options)
    found = fusion(IMAGE)
    assert fusion.names == ["cat", "dog"]
    assert_fused(found, expected(members, conf_type="max", **options), label)
    assert len(found) < 36
    assert set(found.names) == {"cat", "dog"}
    for member, own in zip(found.members, members, strict=True):
        assert_fused(member, (own[0] / SCALE, *own[1:]), label)
    nmw = Fusion(detectors, weights=weights, method="nmw", names=NAMES)(IMAGE)
    assert_fused(nmw, expected(members, "non_maximum_weighted", weights=weights, iou_thr=0.55), label)


def test_one_detector_keeps_its_boxes() -> None:
    own = columns(1)
    assert_fused(Fusion([returning(as_dict(1))], names=NAMES)(IMAGE), (own[0] / SCALE, *own[1:]), {1: 0, 3: 1})


def ultralytics_like(seed: int) -> list[Any]:
    boxes, scores, labels = map(torch.from_numpy, columns(seed))
    return [
        SimpleNamespace(boxes=SimpleNamespace(xyxy=boxes, conf=scores, cls=labels.float()), names={1: "cat", 3: "dog"})
    ]


def supervision_like(seed: int, named: bool) -> Any:
    supervision = pytest.importorskip("supervision")
    boxes, scores, labels = columns(seed)
    data = {"class_name": np.array(NAMES)[labels]} if named else {}
    return supervision.Detections(boxes, confidence=scores, class_id=0 * labels if named else labels, data=data)


def own_kind(seed: int) -> Detections:
    boxes, scores, labels = columns(seed)
    names = [NAMES[label] for label in labels]
    scores, labels = torch.from_numpy(scores).float(), torch.from_numpy(labels // 2)
    return Detections(torch.from_numpy(boxes).float(), scores, labels, names, category_ids=[17, 18])


@pytest.mark.parametrize(
    "kind",
    [
        as_dict,
        lambda seed: [as_dict(seed)],
        ultralytics_like,
        lambda seed: supervision_like(seed, True),
        lambda seed: supervision_like(seed, False),
        own_kind,
    ],
    ids=["torchvision", "list", "ultralytics", "supervision names", "supervision ids", "divdet"],
)
def test_kinds_of_results(kind: Callable[[int], Any]) -> None:
    found = Fusion([returning(kind(1)), returning(as_dict(2))], names=NAMES)(IMAGE)
    assert_fused(found, expected([columns(1), columns(2)], iou_thr=0.55), {1: 0, 3: 1})


def test_classes_are_matched_by_name() -> None:
    box = [[10.0, 10, 40, 40]]
    first = returning({"boxes": box, "labels": [1], "scores": [0.8]})
    second = returning({"boxes": box, "labels": [0], "scores": [0.4]})
    third = returning({"boxes": [], "labels": [], "scores": []})
    found = Fusion([first, second, third], names=[["owl", "dog"], ["dog"], None])(IMAGE)
    assert [(name, round(score, 4)) for name, score in zip(found.names, found.scores.tolist(), strict=True)] == [
        ("dog", 0.4)  # 1.2 / 2 boxes · 2 of 3 detectors
    ]
    assert found.labels.tolist() == [1]  # owl comes first
    alone = Fusion([first, third], names=[["owl", "dog"], None])(IMAGE)
    assert alone.scores.tolist() == pytest.approx([0.4])

    grown = Fusion([returning(supervision_like(1, True)), returning(own_kind(2))])
    assert (grown.names, grown.complete) == ([], False)
    found = grown(IMAGE)
    assert sorted(grown.names) == ["cat", "dog"]
    assert [grown.names[label] for label in found.labels.tolist()] == found.names
    assert sorted(zip(grown.names, grown.category_ids, strict=True)) == [("cat", 17), ("dog", 18)]


def test_two_spellings_of_a_class_are_refused() -> None:
    nothing = returning({"boxes": [], "labels": [], "scores": []})
    for second in ("Traffic Light", "traffic_light", "trafficlight"):
        said = rf"detectors\[1\] has the class '{second}', detectors\[0\] 'traffic light'"
        with pytest.raises(UserError, match=said):
            Fusion([nothing, nothing], names=[["cat", "traffic light"], [second]])
    letters = Fusion([nothing, nothing], names=[["a", "A"], ["A", "_", "-"]])
    assert letters.names == ["a", "A", "_", "-"]


@pytest.fixture(scope="module")
def detectors() -> list[Detector]:
    """Two with other heads, input sizes and classes."""
    made = []
    for head, size, names, ids in (("ssd300", None, ["cat", "dog"], [3, 7]), ("fcos", 64, ["dog", "owl"], [7, 9])):
        torch.manual_seed(len(made))
        model = create_model(ModelSettings("resnet10_16", 2, None, head, size), 2)
        settings = PostprocessSettings(score_threshold=0.01, max_per_member=20)
        made.append(Detector(model, names, ids, settings, torch.device("cpu")))
    return made


def test_detectors_of_other_heads(detectors: list[Detector]) -> None:
    fusion = divdet.Fusion(detectors, iou_thr=0.5)
    found = fusion(Image.fromarray(IMAGE))
    assert (fusion.names, fusion.category_ids, fusion.complete) == (["cat", "dog", "owl"], [3, 7, 9], True)
    assert found.category_ids == [3, 7, 9]
    own = [detector(IMAGE) for detector in detectors]
    assert all(map(len, own))
    lists = [(one.boxes, one.scores, one.labels.numpy() + first) for first, one in enumerate(own)]
    assert_fused(found, expected(lists, iou_thr=0.5))
    assert [len(member) for member in found.members] == [len(one) for one in own]
    assert {entry["category_id"] for entry in found.to_coco(1)} <= {3, 7, 9}
    other = Detector(detectors[0].model, ["cat", "dog"], [5, 7], detectors[0].settings, torch.device("cpu"))
    assert Fusion([detectors[0], other]).category_ids == []


def test_images_as_predict_takes_them() -> None:
    seen: list[np.ndarray] = []

    def detector(image: np.ndarray) -> dict[str, torch.Tensor]:
        seen.append(image)
        return as_dict(1)

    fusion = Fusion([detector, returning(as_dict(2))], names=NAMES)
    one = fusion(IMAGE)
    assert fusion([IMAGE, Image.fromarray(IMAGE)]) == [one, one]
    assert fusion(np.stack([IMAGE, IMAGE])) == [one, one]
    stream = fusion(image for image in [IMAGE])
    assert len(seen) == 5
    assert next(stream) == one
    fusion(IMAGE[..., ::-1], bgr=True)
    assert all((image == IMAGE).all() for image in seen)
    high = fusion(IMAGE, score_threshold=0.3)
    assert high == one[one.scores >= 0.3]
    assert 0 < len(high) < len(one)
    for arguments in ({"score_threshold": 1.5}, {"bgr": "yes"}):
        with pytest.raises(UserError, match=next(iter(arguments))):
            fusion(IMAGE, **arguments)


def test_torchvision_models_are_called_as_they_are() -> None:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    model = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4, score_thresh=0.1, detections_per_img=20
    )
    fusion = Fusion([model, returning(as_dict(2))], names=[*NAMES[:2], "owl", "dog"])
    with pytest.raises(UserError, match=r"detectors\[0\] is in training mode"):
        fusion(IMAGE)
    model.eval()
    found = fusion(IMAGE)
    with torch.inference_mode():
        (own,) = model([torch.from_numpy(IMAGE).permute(2, 0, 1) / 255])
    assert len(own["scores"]) > 0
    member = own["boxes"].double(), own["scores"].double(), own["labels"]
    assert_fused(found, expected([member, columns(2)], iou_thr=0.55), {1: 0, 2: 1, 3: 2})


def test_ultralytics_models_get_bgr() -> None:
    seen = []

    class YOLO:
        names = {0: "cat"}  # noqa: RUF012

        def __call__(self, image: np.ndarray, verbose: bool = True) -> list[Any]:
            seen.append(image)
            return ultralytics_like(1)

    YOLO.__module__ = "ultralytics.models.yolo.model"
    fusion = Fusion([YOLO(), returning(as_dict(2))], names=NAMES)
    fusion(IMAGE)
    assert (seen[0] == IMAGE[..., ::-1]).all()


GOOD = {"boxes": [[10.0, 10, 40, 40]], "labels": [1], "scores": [0.5]}


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (GOOD | {"boxes": [[0.1, 0.1, 0.5, 0.5]]}, r"the box \[0.1, .* image of 80 x 60: give pixels, not fractions"),
        (GOOD | {"boxes": [[10.0, 10, 400, 40]]}, "400, 40] for an image of 80 x 60: give pixels of the image"),
        (GOOD | {"boxes": [[30.0, 30, 20, 20]]}, "of negative size: boxes are x1, y1, x2, y2"),
        (GOOD | {"boxes": [[10.0, math.nan, 40, 40]]}, "coordinates must be finite"),
        (GOOD | {"boxes": [[10.0, 10, 40]]}, r"boxes of the shape \[1, 3\]"),
        (GOOD | {"scores": [0.5, 0.5]}, "with 2 scores and 1 classes"),
        (GOOD | {"scores": [87]}, "the score 87: scores must be 0 to 1"),
        (GOOD | {"scores": [math.nan]}, "the score nan"),
        (GOOD | {"scores": ["much"]}, "scores that are no numbers"),
        (GOOD | {"labels": [4]}, "the label 4, but names are given for 0 to 3"),
        (GOOD | {"labels": [1.5]}, "the label 1.5, but"),
        (GOOD | {"labels": [0]}, "the label 0, which names call '__background__'"),
        (GOOD | {"labels": [2]}, "the label 2, which names call 'N/A'"),
        (None, "returned NoneType for an image: return divdet.Detections"),
        ([GOOD, GOOD], "returned a list of 2 for an image"),
        ({"boxes": []}, "returned dict for an image"),
        (SimpleNamespace(boxes=None), "returned SimpleNamespace for an image"),  # ultralytics' oriented boxes
    ],
)
def test_results_that_do_not_fit(result: Any, message: str) -> None:
    fusion = Fusion([returning(GOOD), returning(result)], names=NAMES)
    with pytest.raises(UserError, match=rf"^detectors\[1\] returned .*{message}|^detectors\[1\] {message}") as raised:
        fusion(IMAGE)
    assert "\n" not in str(raised.value)


def test_results_without_names_or_scores() -> None:
    with pytest.raises(UserError, match=r"detectors\[0\] returned labels without names: give Fusion\(..., names="):
        Fusion([returning(GOOD)])(IMAGE)
    supervision = pytest.importorskip("supervision")
    bare = supervision.Detections(xyxy=np.array([[1.0, 2, 30, 40]]), class_id=np.array([1]))
    with pytest.raises(UserError, match="without confidence"):
        Fusion([returning(bare)], names=NAMES)(IMAGE)
    assert len(Fusion([returning(supervision.Detections.empty())], names=NAMES)(IMAGE)) == 0
    assert len(Fusion([returning({"boxes": [], "labels": [], "scores": []})] * 2)(IMAGE)) == 0


def test_boxes_are_clipped_and_small_ones_are_pixels_once_others_were() -> None:
    results = iter([GOOD | {"boxes": [[-5.0, 10, 90, 40]]}, GOOD | {"boxes": [[0.0, 0, 1, 1]]}])
    fusion = Fusion([lambda image: next(results)], names=NAMES)
    assert fusion(IMAGE).boxes.tolist() == [[0, 10, 80, 40]]
    assert fusion(IMAGE).boxes.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"detectors": []}, "detectors is empty"),
        ({"detectors": returning(GOOD)}, "detectors is function: give a list"),
        ({"detectors": [returning(GOOD), "a.pt"]}, r"detectors\[1\] is str: give a detector"),
        ({"weights": [1]}, "1 weights for 2 detectors"),
        ({"weights": [1, -1]}, "weights is"),
        ({"method": "mean"}, "method is 'mean': choose one of"),
        ({"iou_thr": 2}, "iou_thr is 2"),
        ({"iou_thr": "0.5"}, "iou_thr is '0.5': give a number"),
        ({"names": "cat"}, "names is 'cat'"),
        ({"names": [["cat"]]}, "names has 1 lists for 2 detectors"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Fusion(**{"detectors": [returning(GOOD)] * 2} | arguments)
