"""Training, evaluation and prediction from Python."""

import json
from pathlib import Path
from typing import Any

import pytest

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
