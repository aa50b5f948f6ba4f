"""The planner: what it times, refuses and prints; the times themselves are not tested."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from detection.data.synthetic import generate
from detection.models.head import DividedDetector
from detection.prediction_settings import PostprocessSettings
from divdet.commands import COMMANDS, plan_timing, timed_networks
from divdet.commands.plan import _shape
from divdet.commands.plan_runs import read_runs
from divdet.commands.plan_table import describe
from divdet.commands.timed_networks import CANDIDATES, TimedNetwork
from divdet.engine import checkpoint
from divdet.engine.errors import UserError

SHORT = ["--rounds=2", "--seconds=0.001", "--batch_size=2", "--device=cpu"]


def plan(*words: str) -> dict[str, Any]:
    command = COMMANDS["plan"]
    return command.call(command.parse([*SHORT, *words], "divdet plan"))


# Plans


def test_a_plan_of_classifiers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--task=cls", "--backbones=resnet10_16,resnet10_4", "--members", "1,4,512", "--dataset=cifar10"]
    found = plan(*words, "--recipe=cifar2k", "--budget-ms", "1e6", f"--output={tmp_path}")
    rows = found["candidates"]
    assert json.loads((tmp_path / "plan.json").read_text()) == found
    assert (tmp_path / "plan.png").stat().st_size > 0
    ways = {"S=1, torch", "S=4, torch", "S=4, torch, threads"}
    assert {one["name"] for one in rows} == {f"{name} {way}" for name in ("resnet10_16", "resnet10_4") for way in ways}
    assert [one["milliseconds"] for one in rows] == sorted(one["milliseconds"] for one in rows)
    for one in rows:
        low, high = one["quartiles"]
        assert low <= one["milliseconds"] <= high
        assert one["per_second"] == pytest.approx(2000 / one["batch_milliseconds"])
        assert one["within_budget"] is True
        known = {(16, 1): "cifar2k_w16_s1", (16, 4): "cifar2k_w16_s4"}.get((int(one["backbone"][9:]), one["members"]))
        assert (one["accuracy"] or {}).get("source") == (known and f"evidence: {known}")
    assert (found["data"], found["recipe"], found["metric"]) == ("cifar10", "cifar2k", "top1")
    assert [(one["backbone"], one["members"]) for one in found["refused"]] == [
        ("resnet10_16", 512),
        ("resnet10_4", 512),
    ]
    assert found["missing"] == {}
    assert "'cifar50k' of 2" in found["notes"][0]
    text, said = capsys.readouterr()
    assert text.strip() == describe(found).strip()
    assert "timing 4 networks: " in said  # where no bar is shown
    assert "| resnet10_4 S=1, torch |" in text
    assert "refused: resnet10_4 S=512: " in text
    assert "take resnet10_16 S=4, torch" in text


def test_another_recipe_has_other_accuracies(capsys: pytest.CaptureFixture) -> None:
    found = plan("--task=cls", "--backbones=resnet10_24", "--members=2", "--dataset=tinyimagenet64", "--json")
    assert json.loads(capsys.readouterr().out) == found
    assert {(one["image_size"], one["classes"]) for one in found["candidates"]} == {(64, 200)}
    assert {one["accuracy"]["source"] for one in found["candidates"]} == {"evidence: tiny_further_lr0.2_s2"}
    words = ["--backbones=resnet10_16", "--members=1", "--dataset=cifar10", "--recipe=cifar50k"]
    assert plan("--task=cls", *words)["candidates"][0]["accuracy"]["source"] == "evidence: cifar50k_w16_s1"


def test_a_plan_of_detectors_counts_their_boxes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    counts, find = [], plan_timing.head_boxes

    def counting(model: DividedDetector, *outputs: Any) -> list:
        _, scores = model.decode(*outputs[:2])
        counts.append(int((scores > PostprocessSettings().score_threshold).sum()) / outputs[1].shape[:2].numel())
        return find(model, *outputs)

    monkeypatch.setattr(plan_timing, "head_boxes", counting)
    monkeypatch.setitem(sys.modules, "onnx", None)
    found = plan("--backbones=resnet10_24", "--members=2", "--dataset=bccd", "--runtimes=torch,onnxruntime")
    assert {one["concurrency"] for one in found["candidates"]} == {"sequential", "threads"}
    assert {one["accuracy"]["source"] for one in found["candidates"]} == {"evidence: cells50_w24_s2"}
    ((reason, networks),) = found["missing"].items()
    assert "--runtime onnxruntime needs onnx: pip install" in reason
    assert networks == ["resnet10_24 S=2"]
    assert f"not timed: {reason} (resnet10_24 S=2)" in capsys.readouterr().out
    assert all(CANDIDATES / 3 < count < 3 * CANDIDATES for count in counts)


def test_a_runtime_runs_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    words = ["--backbones=resnet10_16", "--members=1", "--dataset=3", "--runtimes=torch,openvino"]
    assert [one["runtime"] for one in sorted(plan(*words)["candidates"], key=lambda one: one["runtime"])] == [
        "openvino",
        "torch",
    ]
    other = TimedNetwork("resnet10_16", 1, 3, 300, "ssd300").create(torch.device("cpu"))
    create = plan_timing.create_network

    def another(model: DividedDetector, settings: Any, device: torch.device) -> Any:
        return create(model if settings.runtime == "torch" else other, replace_runtime(settings), device)

    def replace_runtime(settings: Any) -> Any:
        settings.runtime = "torch"
        return settings

    monkeypatch.setattr(plan_timing, "create_network", another)
    with pytest.raises(UserError, match="resnet10_16 S=1, openvino: its outputs differ"):
        plan(*words)


def test_nothing_is_left_of_a_plan_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        assert not (tmp_path / "new").exists()  # a signal may end the process here
        raise KeyboardInterrupt

    monkeypatch.setattr(plan_timing.Timer, "time", stop)
    with pytest.raises(KeyboardInterrupt):
        plan("--task=cls", "--backbones=resnet10_4", "--members=1", f"--output={tmp_path / 'new' / 'plan'}")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be created"):
        plan("--task=cls", "--backbones=resnet10_4", "--members=1", f"--output={tmp_path / 'file'}")


@pytest.mark.parametrize(("load", "said"), [(0.9, ""), (1.2, "may be too long"), (3.0, "far off")])
def test_the_load_is_told(
    load: float, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(timed_networks.os, "getloadavg", lambda: (load, 0, 0))
    monkeypatch.setattr(timed_networks, "cores", lambda: 2)
    timed_networks.note_load(torch.device("cpu"))
    written = capsys.readouterr().err
    assert said in written if said else not written


# Runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny training."""
    folder = tmp_path_factory.mktemp("plan")
    generate(folder / "data", 4, 3)
    words = ["--config=bccd", "--model.backbone=resnet10_16", "--model.members=2", f"--data={folder / 'data'}"]
    words += ["--train.epochs=2", "--train.warmup_epochs=0", "--train.workers=0", "--report=false"]
    command = COMMANDS["train-det"]
    command.call(command.parse([*words, "--train.evaluate_every=1", f"--output={folder / 'run'}"]))
    return folder / "run"


def changed(run: Path, folder: Path, change: Any) -> str:
    """Another run's folder: the same checkpoint, changed."""
    saved = checkpoint.load(run / "last.pt")
    change(saved)
    folder.mkdir()
    torch.save(saved.entries(), folder / "last.pt")
    return str(folder)


def test_runs_have_their_own_accuracy(run: Path, tmp_path: Path) -> None:
    def better(saved: checkpoint.Checkpoint) -> None:
        saved.config["model"]["members"] = 1
        for line, value in zip(saved.history, (0.9, 0.8), strict=True):
            line["AP"] = value

    other = changed(run, tmp_path / "single", better)
    words = ["--backbones=resnet10_4,resnet10_16", "--members=2", "--runtimes=torch"]
    found = plan("--runs", str(run), other, *words)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = max(lines, key=lambda line: line["AP"])
    by_name = {one["name"]: one for one in found["candidates"]}
    own = by_name[f"{run}, torch"]
    assert own["accuracy"]["value"] == best["AP"]
    assert own["accuracy"]["source"] == f"measured: {run}, epoch {best['epoch']}"
    assert (own["backbone"], own["members"], own["head"], own["classes"]) == ("resnet10_16", 2, "ssd300", 6)
    assert by_name[f"{other}, torch"]["accuracy"]["value"] == 0.9
    assert by_name[f"{other}, torch"]["members"] == 1
    assert "resnet10_16 S=2, torch" not in by_name  # it is the run's
    # The backbones have the runs' classes, and no accuracy of other data
    assert (by_name["resnet10_4 S=2, torch"]["classes"], by_name["resnet10_4 S=2, torch"]["accuracy"]) == (6, None)
    assert found["data"] == str(run.parent / "data")
    assert found["recipe"] is None


def test_a_run_is_listed_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    runs, faults = read_runs(["run", "run/last.pt", "./run/best.pt", f"{run}/"], None)
    assert ([one.name for one in runs], faults) == (["run"], [])


def test_backbones_have_the_head_and_the_size_of_the_runs(run: Path, tmp_path: Path) -> None:
    def fcos(saved: checkpoint.Checkpoint) -> None:
        saved.config["model"] |= {"head": "fcos", "input_size": 256}

    runs, _ = read_runs([changed(run, tmp_path / "fcos", fcos)], None)
    for words, head, size in (("", "fcos", 256), ("--image_size=128", "fcos", 128), ("--head=ssdlite", "ssdlite", 320)):
        config = COMMANDS["plan"].parse(["--backbones=resnet10_4", *words.split()], "divdet plan")
        shape = _shape(config, "det", "", [], runs)
        assert (shape.head, shape.image_size, shape.classes) == (head, size, 6)


def test_runs_that_cannot_be_compared(run: Path, tmp_path: Path) -> None:
    def of_other_data(saved: checkpoint.Checkpoint) -> None:
        saved.run.data["validation"] = "other"

    def unevaluated(saved: checkpoint.Checkpoint) -> None:
        for line in saved.history:
            del line["AP"]

    def unknown(saved: checkpoint.Checkpoint) -> None:
        saved.config["model"]["backbone"] = "resnet11_16"

    other = changed(run, tmp_path / "other", of_other_data)
    with pytest.raises(UserError, match=r"run \(.*data\), .*other \(.*\): their validation data differ"):
        plan("--runs", str(run), other)
    with pytest.raises(UserError) as caught:
        plan(changed(run, tmp_path / "unevaluated", unevaluated), str(tmp_path), f"{tmp_path}/none", "--budget_ms=0")
    for fault in ("last.pt: has no AP of any epoch", "neither last.pt nor best.pt", "none: ", "--budget_ms is 0.0"):
        assert fault in str(caught.value)
    with pytest.raises(UserError, match="unknown: unknown backbone 'resnet11_16': did you mean resnet10_16"):
        plan(changed(run, tmp_path / "unknown", unknown))
    with pytest.raises(UserError, match=r"--task cls: .*run is of task det"):
        plan(str(run), "--task=cls")
    with pytest.raises(UserError, match="--dataset and --recipe are for backbones alone"):
        plan(str(run), "--dataset=coco")


def test_runs_of_classifiers(run: Path, tmp_path: Path) -> None:
    saved = {
        "kind": "classification",
        "model": {"a": torch.zeros(1), "b": torch.zeros(1)},
        "config": {"model": {"backbone": "wrn16_1", "members": 2}, "data": {"dataset": "cifar100", "root": "there"}},
        "meta": {"classes": ["a", "b", "c"], "image_size": 24, "stem": "cifar"},
        "epoch": 2,
        "history": [{"epoch": 1, "top1": 60.0}, {"epoch": 2, "top1": 50.0}],
    }
    torch.save(saved, tmp_path / "best.pt")
    (found,), faults = read_runs([str(tmp_path / "best.pt")], None)
    assert faults == []
    assert found.network == TimedNetwork("wrn16_1", 2, 3, 24, form="cifar")
    assert (found.accuracy.value, found.data) == (60.0, "there")
    assert "is a detector and" in read_runs([str(tmp_path), str(run)], None)[1][0]
    # Data that is called as ours may be another
    saved["config"]["data"]["root"] = "cifar10"
    saved["meta"] = {"classes": list("abcdefghij"), "image_size": 32, "stem": "cifar"}
    torch.save(saved, tmp_path / "best.pt")
    planned = plan(str(tmp_path), "--backbones=resnet10_16", "--members=1")["candidates"]
    assert [one["accuracy"] for one in planned if one["backbone"] == "resnet10_16"] == [None]
    torch.save(saved | {"meta": {"classes": []}}, tmp_path / "best.pt")
    assert "best.pt: its classes, image_size or stem is damaged" in read_runs([str(tmp_path)], None)[1][0]


@pytest.mark.parametrize(
    ("words", "faults"),
    [
        ("", ["--backbones is missing"]),
        ("--backbones ,", ["--backbones is missing"]),
        (
            "--task cls --backbones resnet11_16,resnet10_900 --budget_ms 0 --rounds 1 --seconds 0 --batch_size 0",
            ["did you mean resnet10_16", "from 2 to 512", "--budget_ms is 0.0", "--rounds is 1", "--seconds is 0.0"],
        ),
        ("--backbones resnet10_16 --runtimes tensorrt", ["'tensorrt' is none of torch, compile, onnxruntime"]),
        ("--backbones resnet10_16 --budget_ms .inf", ["--budget_ms is inf"]),
        ("--backbones resnet10_16 --precision fp16", ["--precision is fp16: is for a GPU"]),
        ("--backbones resnet10_16 --head ssd400", ["did you mean ssd300"]),
        ("--backbones resnet10_16 --image_size 30", ["--image_size is 30: SSD300 takes 257"]),
        ("--backbones resnet10_16 --dataset cifar10", ["give coco or the number", "or one of bccd"]),
        ("--task cls --backbones resnet10_16 --dataset bccd", ["--dataset bccd: give one of cifar10, cifar100"]),
        ("--task cls --backbones resnet10_16 --image_size 0", ["image_size must be 1 to 10000"]),
        ("--task cls --backbones resnet10_16 --head fcos", ["--head is fcos: classifiers have none"]),
        (
            "--image_size 512 --head fcos",
            ["--head is fcos: runs have their own", "--image_size is 512: runs have their"],
        ),
        ("--task cls --backbones resnet10_16 --recipe x", ["--recipe x: known for cifar100: 'paper, 300 epochs'"]),
        ("--task cls --backbones resnet10_16 --members 1,0", ["--members 1,0: give numbers of networks from 1"]),
        ("--task cls --backbones wrn28_10 --runtimes openvino", ["classifiers run in torch alone"]),
        ("--task cls --backbones resnext29_8x64d --members 16", ["no division is possible: 8 groups"]),
    ],
)
def test_what_cannot_be_planned_is_refused(words: str, faults: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        plan(*words.split(), f"--output={tmp_path / 'out'}")
    for fault in faults:
        assert fault in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
