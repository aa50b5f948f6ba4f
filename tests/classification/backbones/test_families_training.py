"""Every family co-trains on CIFAR-10's photos and resumes exactly, in networks of a few blocks."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from classification.backbones.dividing import resnet, resnext, wrn
from classification.backbones.registry import BACKBONES, CIFAR, BackboneSpec, efficientnet, residual
from classification.backbones.resnet import BasicBlock, Bottleneck, SENetBottleneck
from classification.settings import ClassificationTrainSettings, DataSettings, ModelSettings, TrainClassification
from classification.training import train
from divdet.engine import checkpoint
from tests.classification.stopping import train_until

TINY = {
    "resnet": residual(CIFAR, Bottleneck, (1, 1, 1), partial(resnet, 16, 4)),
    "se_resnet": residual(CIFAR, Bottleneck, (1, 1, 1), partial(resnet, 16, 4), reduction=4),
    "senet": residual(CIFAR, SENetBottleneck, (1, 1, 1), partial(resnext, 4, 8), reduction=16),
    "wrn": residual(CIFAR, BasicBlock, (1, 1, 1), partial(wrn, 2)),
    "resnext": residual(CIFAR, Bottleneck, (1, 1, 1), partial(resnext, 4, 8)),
    "densenet": BackboneSpec("densenet", {"layers": 2, "growth": 12}),
    "pyramidnet": BackboneSpec("pyramidnet", {"blocks": 1, "alpha": 48, "drop_path": 0.5}),
    "shake_shake": BackboneSpec("shake_shake", {"blocks": 1, "width": 16}),
    "efficientnet": efficientnet(0.25, 0.25),
}


@pytest.fixture(scope="module")
def photos(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first images of each split of CIFAR-10."""
    arrays = {}
    with np.load(shared / "data/cifar10.npz") as whole:
        for split, count in (("train", 24), ("test", 8)):
            arrays[f"{split}_offsets"] = whole[f"{split}_offsets"][: count + 1]
            arrays[f"{split}_bytes"] = whole[f"{split}_bytes"][: arrays[f"{split}_offsets"][-1]]
            arrays[f"{split}_labels"] = whole[f"{split}_labels"][:count]
        arrays["classes"] = whole["classes"]
    path = tmp_path_factory.mktemp("data") / "photos.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("family", TINY)
def test_family_learns_and_resumes_exactly(
    photos: Path, tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, "tiny", TINY[family])

    def recipe(output: str, **others: object) -> TrainClassification:
        return TrainClassification(
            model=ModelSettings("tiny", 2, dropout=0.1),
            data=DataSettings(dataset="npz", root=str(photos), image_size=16, padding=1),
            train=ClassificationTrainSettings(epochs=3, batch_size=8, lr=0.05, cot_warmup_epochs=2, workers=0),
            output=str(tmp_path / output),
            device="cpu",
            **others,
        )

    train(recipe("straight"))
    lines = [json.loads(line) for line in (tmp_path / "straight/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["train_ce"] < 0.95 * lines[0]["train_ce"]
    train_until(recipe("resumed"), step=7)  # in the third epoch of three steps
    train(recipe("resumed", resume="auto"))
    first, second = (checkpoint.read(tmp_path / run / "last.pt")["model"] for run in ("straight", "resumed"))
    assert all(torch.equal(first[key], second[key]) for key in first)
