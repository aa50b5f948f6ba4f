"""Stages of backbones, and what training leaves of frozen ones: weights, running statistics, momentum."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import DropPath

from classification.backbones.registry import create_feature_extractors
from detection import create_ssd
from detection.settings import DataSettings, DetectionTrainSettings, ModelSettings, TrainDetection
from detection.training.train import freeze_backbones, train
from divdet.engine import checkpoint
from divdet.engine.errors import UserError
from divdet.engine.freezing import Stage, freeze, keep_statistics, stages
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
        ("timm:tf_efficientnet_lite0", 8, "conv_stem.weight"),
        ("timm:convnext_atto", 5, "stem.0.weight"),
        ("timm:darknet53", 6, "stem.conv1.conv.weight"),
        ("timm:rexnet_100", 5, "stem.conv.weight"),
        ("timm:dla34", 5, "base_layer.0.weight"),
        ("timm:tresnet_m", 5, "body.conv1.conv.weight"),
        ("timm:densenet121", 5, "features.conv0.weight"),
        ("timm:vgg16_bn", 4, "features.0.weight"),
        ("timm:hieradet_small", 5, "pos_embed"),
    ],
)
def test_every_parameter_is_in_one_stage_and_the_stem_comes_first(backbone: str, count: int, first: str) -> None:
    with torch.device("meta"):
        (member,) = create_feature_extractors(backbone, 1, False)
    network = getattr(member, "network", member)
    names = {parameter: name for name, parameter in network.named_parameters()}
    found = stages(network)
    held = [[names[p] for p in parameters(stage)] for stage in found]
    assert held[0][0] == first
    assert all(held)
    assert len(found) == count
    assert [name for stage in held for name in stage] == list(names.values())  # in the network's order


def parameters(stage: Stage) -> list[torch.nn.Parameter]:
    parts = [[part] if isinstance(part, torch.nn.Parameter) else part.parameters() for part in stage.values()]
    return [parameter for part in parts for parameter in part]


@pytest.mark.parametrize(
    ("name", "size"), [("resnet10t", 64), ("dla46_c", 64), ("tresnet_m", 64), ("densenet121", 64), ("vgg11", 32)]
)
def test_a_stage_ends_where_a_feature_is_taken(name: str, size: int) -> None:
    """The parameters that the feature of stride 8 depends on, by autograd, are those of the first stages."""
    network = timm.create_model(name)
    strides = [level["reduction"] for level in network.feature_info]
    options = {"indices": [strides.index(8)], "intermediates_only": True, "stop_early": True}
    (feature,) = network.forward_intermediates(torch.rand(2, 3, size, size), **options)
    found = torch.autograd.grad(feature.sum(), list(network.parameters()), allow_unused=True)
    used = [p for p, gradient in zip(network.parameters(), found, strict=True) if gradient is not None]
    count = 1 + len({4, 8} & set(strides))
    held = [parameter for stage in stages(network)[:count] for parameter in parameters(stage)]
    assert list(map(id, held)) == list(map(id, used))


def test_a_network_whose_stages_cannot_be_told_is_refused() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))
    network.feature_info = [{"module": f"stage{n}", "reduction": stride} for n, stride in enumerate((4, 8, 16, 32))]
    with pytest.raises(UserError, match="the stages of timm's Sequential cannot be told; set it to 0 or all"):
        stages(network)


def test_the_frozen_modules_are_named(capsys: pytest.CaptureFixture) -> None:
    with torch.device("meta"):
        ssd = create_ssd("timm:resnet18,mobilenetv3_small_050", 2, 3)
    freeze_backbones(ssd, 3)
    assert capsys.readouterr().out.splitlines() == [
        "train.freeze 3 of 5 stages: conv1 … bn1, layer1, layer2",
        "train.freeze 3 of 7 stages: conv_stem … bn1, blocks.0, blocks.1",
    ]


def test_frozen_stages_drop_nothing() -> None:
    """Dropout and stochastic depth of frozen stages are off, those of others and the root's mode stay."""
    network = timm.create_model("mobilenetv3_small_050", drop_path_rate=0.5)
    freeze(part for stage in stages(network)[:4] for part in stage.values())
    network.train()
    keep_statistics(network)
    drops = {name: layer.training for name, layer in network.named_modules() if isinstance(layer, DropPath)}
    assert set(drops.values()) == {True, False}
    assert all(active == (int(name.split(".")[1]) > 2) for name, active in drops.items())
    assert network.training


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


def test_a_run_with_every_option_resumes_to_the_same_weights(
    data: DataSettings, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mixed = replace(data, mosaic=0.5, mixup=0.5, class_balanced=0.9)
    options = {"fraction": 0.75, "class_weights": "auto", "backbone_lr": 0.5, "freeze": 2, "patience": 5}
    options["batch_norm"] = "frozen_backbone"
    steps = {"lr": 0.01, "schedule": "step", "milestones": [9], "batch_size": 2, "workers": 0, "ema_decay": 0.5}
    settings = DetectionTrainSettings(epochs=2, **options, **steps)
    whole = TrainDetection(
        ModelSettings("resnet10_16", 2), mixed, settings, output=str(tmp_path / "whole"), device="cpu"
    )
    parts = replace(whole, output=str(tmp_path / "parts"))
    train(whole)
    printed = capsys.readouterr().out
    assert printed.count("train.freeze 2 of 4 stages: layer0, layer1\n") == 1
    assert "note: train.freeze keeps stages that were not pretrained" in printed
    assert "note: train.batch_norm frozen_backbone keeps the statistics of a fresh backbone" in printed
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
