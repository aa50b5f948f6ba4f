"""What the benchmark command times, prints, and refuses; the times themselves are not tested."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from detection.models.head import DividedDetector
from detection.prediction_settings import PostprocessSettings
from divdet.commands import benchmark as benchmark_command
from divdet.commands.benchmark import print_benchmark
from divdet.commands.network_settings import Benchmark
from divdet.commands.timed_networks import CANDIDATES
from divdet.engine.errors import UserError
from divdet.engine.timing import side_by_side

AT_ONCE = ["members at once, devices", "members at once, threads"]
SHORT = {"rounds": 2, "seconds": 1e-3, "batch_sizes": "1", "device": "cpu", "json": True}


def result(capsys: pytest.CaptureFixture[str], **changes: Any) -> dict[str, Any]:
    print_benchmark(Benchmark(**SHORT | {"backbone": "resnet10_16"} | changes))
    return json.loads(capsys.readouterr().out)


def test_classifiers_at_each_batch_size(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = result(capsys, batch_sizes="1,3", devices="cpu,cpu", output=str(tmp_path))
    ways = ["single network", "members in sequence", *AT_ONCE]
    assert [(row["batch_size"], row["way"]) for row in found["rows"]] == [
        (size, way) for size in (1, 3) for way in ways
    ]
    for row in found["rows"]:
        assert row["per_second"] == pytest.approx(1000 * row["batch_size"] / row["milliseconds"])
        assert row["difference"] is None if row["way"] == "single network" else row["difference"] <= 1e-6
    assert set(found["missing"]) == {"streams", "graph"}
    assert "needs a CUDA device" in found["missing"]["graph"]
    assert json.loads((tmp_path / "benchmark.json").read_text()) == found
    assert (tmp_path / "benchmark.png").stat().st_size > 0
    table = benchmark_command.describe(found)
    assert "| 3 | members at once, threads |" in table
    assert "not timed: --concurrency streams: needs a CUDA device" in table


def test_image_size_is_that_of_the_images(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    draw, shapes = torch.randn, []
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: shapes.append(shape) or draw(*shape, **options))
    found = result(capsys, image_size=40, concurrency="threads")
    assert shapes == [(1, 3, 40, 40)]
    assert benchmark_command.describe(found).startswith("resnet10_16, classifier at 40 pixels, S=2, ")
    assert result(capsys, concurrency="threads")["image_size"] == 32


@pytest.mark.parametrize("head", ["ssd300", "ssdlite"])
def test_detectors_with_and_without_their_boxes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    counts = []

    def counting(
        model: DividedDetector, regressions: torch.Tensor, logits: torch.Tensor, settings: PostprocessSettings
    ) -> list:
        _, scores = model.decode(regressions, logits)
        counts.append(int((scores > settings.score_threshold).sum()) / len(logits))
        return []

    monkeypatch.setattr(benchmark_command, "head_boxes", counting)
    found = result(capsys, task="det", dataset="3", concurrency="threads", head=head)
    assert (found["head"], found["image_size"]) == (head, {"ssd300": 300, "ssdlite": 320}[head])
    ways = ["single network", "members in sequence", "members at once, threads"]
    assert [row["way"] for row in found["rows"]] == [*ways, *(way + " + boxes" for way in ways)]
    assert found["missing"] == {}
    assert all(CANDIDATES / 3 < count < 3 * CANDIDATES for count in counts)  # of another image than they were set by


def test_other_outputs_than_in_sequence_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(branches: list, *_: Any) -> Any:
        return lambda views: torch.stack([branch(view) for branch, view in zip(reversed(branches), views, strict=True)])

    monkeypatch.setattr(benchmark_command, "concurrent", swapped)
    with pytest.raises(UserError, match="members at once, threads: its outputs differ"):
        print_benchmark(Benchmark(**SHORT, backbone="resnet10_16", concurrency="threads"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": None}, "--backbone is missing"),
        ({"backbone": "resnet11_16"}, "did you mean resnet10_16"),
        ({"task": "det", "dataset": "cifar10"}, "--dataset cifar10: give coco or the number"),
        ({"dataset": "coco"}, "unknown dataset 'coco'"),
        ({"task": "det", "image_size": 30}, "--image_size is 30: SSD300 takes 257 to 4096 pixels"),
        ({"task": "det", "head": "ssd400"}, "model.head is 'ssd400': choose one of ssd300, ssd512"),
        ({"image_size": 0}, "image_size must be 1 to 10000"),
        ({"image_size": 10**30}, "image_size must be 1 to 10000"),
        ({"backbone": "se_resnet50", "image_size": 1}, "se_resnet50 cannot take images of 1 pixels"),
        ({"members": 1}, "members is 1: choose at least 2"),
        ({"batch_sizes": "1,0"}, "--batch_sizes 1,0: give numbers of images"),
        ({"rounds": 1}, "rounds is 1"),
        ({"seconds": 0.0}, "seconds is 0.0"),
        ({"precision": "fp16"}, "--precision fp16: is for a GPU"),
        ({"concurrency": "streams"}, "--concurrency streams: needs a CUDA device"),
        ({"devices": "cpu"}, "needs two devices or more"),
        ({"devices": "cpu,cpu", "concurrency": "threads"}, "--devices cpu,cpu: is for --concurrency devices"),
    ],
)
def test_what_cannot_be_timed_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        print_benchmark(Benchmark(**SHORT | {"backbone": "resnet10_16"} | changes))


def test_ratios_are_those_of_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr("divdet.engine.timing.time.perf_counter", lambda: float(next(clock)))
    slow, fast = side_by_side({"slow": lambda: [next(clock) for _ in range(5)], "fast": int}, "slow", rounds=3)
    assert (fast.milliseconds, slow.milliseconds) == ([1000.0] * 3, [6000.0] * 3)
    assert (fast.ratio, slow.ratio) == (6.0, 1.0)
