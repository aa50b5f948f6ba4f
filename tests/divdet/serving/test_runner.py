"""How the service runs a detector: what it finds is what ``predict`` finds, in a batch, filled up, tiled or fused."""

from typing import Any

import pytest

from detection import Detections, Detector, Fusion
from divdet.engine.errors import UserError
from divdet.engine.uploads import TooManyPixels
from divdet.serving.runner import Runner
from tests.detection.generated import write_detector
from tests.divdet.serving.services import encoded, noise

IMAGES = [encoded(noise(number, 90 + 10 * number, 70)) for number in range(3)]


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    path = tmp_path_factory.mktemp("runner") / "tiny.pt"
    return Detector.load(write_detector(path, 2, {"id": 7, "name": "thing"}), "cpu")


def found(runner: Runner, thresholds: list[float], classes: str | None = None) -> list[Detections]:
    wanted = [runner.wanted(threshold, classes) for threshold in thresholds]
    results = runner.run([runner.prepare(data) for data in IMAGES[: len(wanted)]], wanted)
    assert [one.size for one in results] == [(90 + 10 * number, 70) for number in range(len(wanted))]
    return [one.detections for one in results]


def check(ours: list[Detections], expected: list[Detections]) -> None:
    assert all(len(one) for one in expected)
    for one, two in zip(ours, expected, strict=True):
        assert one == two
        assert one.members == two.members


@pytest.mark.parametrize("compiled", [False, True])
def test_a_batch_each_with_its_own_rules(detector: Detector, compiled: bool) -> None:
    runner, thresholds = Runner(detector, detector.settings, max_batch=6, compiled=compiled), [0.0, 0.11, 0.2]
    sizes: list[int] = []
    network = detector.network
    detector.network = lambda inputs: sizes.append(len(inputs)) or network(inputs)
    try:
        ours = found(runner, thresholds)
        check(ours, [detector.predict(data, thr) for data, thr in zip(IMAGES, thresholds, strict=True)])
        assert sizes[0] == (4 if compiled else 3)
        sizes.clear()
        runner.warm_up()
        assert sizes == ([1, 2, 4, 6] if compiled else [1, 6])
    finally:
        detector.network = network


def test_tiles(detector: Detector) -> None:
    views: dict[str, Any] = {"tile": 50, "overlap": 0.2, "whole_image": True, "tta": None}
    runner = Runner(detector, detector.settings, views)
    runner.warm_up()
    check(found(runner, [0.1, 0.2], "7"), [detector.predict(IMAGES[i], (0.1, 0.2)[i], **views) for i in range(2)])


def test_a_fusion(detector: Detector) -> None:
    def other(image: Any) -> dict[str, Any]:
        return {"boxes": [[1, 2, 30, 40]], "labels": [0], "scores": [0.9]}

    fusion = Fusion([detector, other], names=[None, ["other"]])
    runner = Runner(fusion, detector.settings)
    check(found(runner, [0.1]), [fusion.predict(IMAGES[0], 0.1)])
    (others,) = found(runner, [0.1], "other")
    assert set(others.names) == {"other"}
    assert [len(member) for member in others.members] == [0, 1]


def test_what_it_refuses(detector: Detector) -> None:
    runner = Runner(detector, detector.settings, max_pixels=90 * 70)
    assert runner.prepare(IMAGES[0]).size == (90, 70)
    with pytest.raises(TooManyPixels, match="6300 pixels"):
        runner.prepare(IMAGES[1])
    with pytest.raises(UserError, match="did you mean thing"):
        runner.wanted(0, "things")
