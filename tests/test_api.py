"""Training, evaluation and prediction from Python."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import divdet
from detection.data.synthetic import generate


class Epochs(divdet.Callback):
    """Keeps the metrics of each epoch."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    def on_epoch_end(self, run: Any, epoch: int, metrics: dict[str, float]) -> None:
        self.metrics.append(metrics)


def test_train_evaluate_predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generate(Path("shapes"), 12, 4)
    data = {f"{split}_annotations": f"shapes/annotations/instances_{split}.json" for split in ("train", "val")}
    data |= {f"{split}_images": f"shapes/images/{split}" for split in ("train", "val")}
    model = {"backbone": "resnet10_16", "members": 2}
    common = {"output": "runs/mine", "device": "cpu", "seed": 1}
    train, epochs = {"epochs": 1, "warmup_epochs": 0.5}, Epochs()
    last = divdet.train("shapes", model=model, data=data, train=train, callbacks=[epochs], **common)
    assert epochs.metrics == [last]

    found = divdet.evaluate("runs/mine/last.pt", device="cpu", output="eval")
    assert found["AP"] == last["AP"]
    assert json.loads(Path("eval/metrics.json").read_text())["AP"] == found["AP"]
    fewer = divdet.evaluate("runs/mine/last.pt", device="cpu", output="eval", postprocess={"max_per_member": 1})
    assert fewer["postprocess"]["max_per_member"] == 1

    detector = divdet.Detector.load("runs/mine/last.pt", device="cpu")
    (one,) = detector.predict(["shapes/images/val/000001.jpg"])
    assert isinstance(one, divdet.Detections)
    with pytest.raises(divdet.UserError, match=r"trian.*did you mean"):
        divdet.train("shapes", trian={"epochs": 1})
    with pytest.raises(divdet.UserError, match="no such checkpoint"):
        divdet.evaluate("runs/none.pt")


def test_classifiers_are_evaluated_by_their_own_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generate(Path("shapes"), 24, 8)
    settings = {"epochs": 1, "batch_size": 16, "warmup_epochs": 0.5, "cot_warmup_epochs": 0.5, "workers": 0}
    model, data = {"backbone": "resnet10_16"}, {"root": "shapes/crops"}
    common, epochs = {"output": "runs/cls", "device": "cpu"}, Epochs()
    last = divdet.train(
        "shapes_backbones", task="cls", model=model, data=data, train=settings, callbacks=[epochs], **common
    )
    assert epochs.metrics == [last]
    assert divdet.evaluate("runs/cls/last.pt", device="cpu")["top1"] == pytest.approx(last["top1"])


@pytest.mark.parametrize("weights", [np.array([3, 1]), torch.tensor([3.0, 1.0]), (np.float32(3), 1), "3,1"])
def test_settings_may_be_numbers_of_numpy_and_torch_and_devices(tmp_path: Path, weights: Any) -> None:
    generate(tmp_path, 4, 4)
    truth = tmp_path / "annotations/instances_val.json"
    results = [tmp_path / f"{name}.json" for name in "ab"]
    for file in results:
        file.write_text("[]")
    iou = np.float32(0.5)
    fused = divdet.fuse_results(truth, results, weights=weights, iou_thr=iou, output=tmp_path / "fused")
    assert (fused["fusion"]["weights"], fused["fusion"]["iou_thr"]) == ([3.0, 1.0], 0.5)
    train = {"epochs": np.int64(0), "lr": np.float64(0.5)}
    with pytest.raises(divdet.UserError, match=r"^train\.epochs is 0: "):
        divdet.train(device=torch.device("cpu"), train=train)


def test_arguments_of_another_kind_are_named() -> None:
    with pytest.raises(divdet.UserError, match=r"^task is 'detection': choose det or cls$"):
        divdet.train(task="detection")
    with pytest.raises(divdet.UserError, match=r"^checkpoint is list: give a file's path"):
        divdet.evaluate([{"image_id": 1}])
    with pytest.raises(divdet.UserError, match=r"^train is 3: it is a section: give it fields"):
        divdet.train(train=3)
    with pytest.raises(divdet.UserError, match=r"^recipe is dict: give a file or a name; fields are arguments"):
        divdet.train({"train": {"epochs": 1}})
    for results in (None, "b.json"):
        with pytest.raises(divdet.UserError, match=rf"^results is {results!r}: give a list of two or more files$"):
            divdet.fuse_results("a.json", results)
