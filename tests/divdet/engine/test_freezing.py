"""Stages of backbones, and what training leaves of frozen ones: weights, running statistics, momentum."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from classification.backbones.registry import create_feature_extractors
from detection import create_ssd
from detection.settings import DataSettings, DetectionTrainSettings, ModelSettings, TrainDetection
from detection.training.train import freeze_backbones, train
from divdet.engine import checkpoint
from divdet.engine.errors import UserError
from divdet.engine.freezing import keep_statistics, stages
from divdet.engine.optimization import build_optimizer
from divdet.engine.settings import TrainSettings
from tests.detection.generated import shapes


@pytest.mark.parametrize(
    ("backbone", "count", "first"),
    [
        ("resnet10_16", 4, "layer0.0.weight"),
        ("resnet50", 4, "layer0.0.weight"),
        ("timm:resnet18", 5, "conv1.weight"),
        ("timm:mobilenetv3_small_050", 7, "conv_stem.weight"),
    ],
)
def test_every_parameter_is_in_one_stage_and_the_stem_comes_first(backbone: str, count: int, first: str) -> None:
    with torch.device("meta"):
        (member,) = create_feature_extractors(backbone, 1, False)
    network = getattr(member, "network", member)
    names = {parameter: name for name, parameter in network.named_parameters()}
    found = stages(network)
    held = [[names[p] for module in stage for p in module.parameters()] for stage in found]
    assert held[0][0] == first
    assert sorted(name for stage in held for name in stage) == sorted(names.values())
    assert len(found) == count
    assert [name for stage in held for name in stage] == list(names.values())  # in the network's order


def test_frozen_batch_norms_keep_their_statistics_and_others_learn() -> None:
    ssd = create_ssd("resnet10_16", 2, 3)
    freeze_backbones(ssd, 2)
    before = {name: value.clone() for name, value in ssd.state_dict().items()}
    ssd.train()
    keep_statistics(ssd)
    ssd(torch.randn(2, 3, 300, 300))
    changed = {
        name.rpartition(".")[0] for name, value in ssd.state_dict().items() if not torch.equal(value, before[name])
    }
    norms = {name for name, layer in ssd.named_modules() if isinstance(layer, torch.nn.BatchNorm2d)}
    frozen = {name for name in norms if name.startswith("members.") and name.split(".")[2] in ("layer0", "layer1")}
    assert len(frozen) == 2 * (3 + 2)
    assert changed == norms - frozen
    with pytest.raises(UserError, match=r"train\.freeze is 9, but the backbone has 4 stages"):
        freeze_backbones(ssd, 9)
    freeze_backbones(ssd, "all")
    learnt = [name for name, parameter in ssd.named_parameters() if parameter.requires_grad]
    assert learnt
    assert not any(name.startswith("members.") for name in learnt)


def test_the_backbones_have_a_rate_of_their_own() -> None:
    ssd = create_ssd("resnet10_16", 2, 3)
    freeze_backbones(ssd, 1)
    optimizer = build_optimizer(ssd, TrainSettings(lr=0.5), 0.1, lr_factors={"members.": 0.1})
    names = {parameter: name for name, parameter in ssd.named_parameters()}
    held = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            held.append(names[parameter])
            assert group["lr_factor"] == (0.1 if names[parameter].startswith("members.") else 1.0)
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
    assert sorted(held) == sorted(name for name in names.values() if ".layer0." not in name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSettings:
    return shapes(tmp_path_factory.mktemp("shapes"))


def test_a_run_with_every_option_resumes_to_the_same_weights(data: DataSettings, tmp_path: Path) -> None:
    mixed = replace(data, mosaic=0.5, mixup=0.5, class_balanced=0.9)
    options = {"fraction": 0.75, "class_weights": "auto", "backbone_lr": 0.5, "freeze": 2, "patience": 5}
    steps = {"lr": 0.01, "schedule": "step", "milestones": [9], "batch_size": 2, "workers": 0, "ema_decay": 0.5}
    settings = DetectionTrainSettings(epochs=2, **options, **steps)
    whole = TrainDetection(
        ModelSettings("resnet10_16", 2), mixed, settings, output=str(tmp_path / "whole"), device="cpu"
    )
    parts = replace(whole, output=str(tmp_path / "parts"))
    train(whole)
    train(replace(parts, train=replace(settings, epochs=1)))
    train(replace(parts, resume="auto"))
    saved, again = (checkpoint.read(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    for kind in ("model", "trained", "optimizer"):
        assert saved[kind].keys() == again[kind].keys()
        assert all(torch.equal(value, again[kind][key]) for key, value in saved[kind].items())
    assert "members.0.layer2.0.conv1.weight" in saved["optimizer"]
    assert not any(key.startswith(("members.0.layer0.", "members.1.layer1.")) for key in saved["optimizer"])
    with pytest.raises(UserError, match=r"trained with train\.freeze = 2, not 1"):
        train(replace(parts, resume="auto", train=replace(settings, freeze=1)))
