"""Networks of timm as members, against timm itself."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from classification import create_ensemble
from classification.backbones.registry import create_feature_extractors, create_members
from classification.backbones.timm_models import check_copies_differ, create_classifier, statistics
from classification.data.statistics import IMAGENET_STATISTICS
from detection import create_ssd
from detection.models.cost import summarize
from detection.training.train import load_pretrained
from divdet.engine.errors import UserError


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_features_are_the_last_at_strides_8_16_and_32(name: str) -> None:
    torch.manual_seed(0)
    extractor = create_feature_extractors(f"timm:{name}", 1)[0].eval()
    reference = timm.create_model(name, features_only=True, out_indices=(2, 3, 4)).eval()
    weights = {name.removeprefix("network."): value for name, value in extractor.state_dict().items()}
    assert set(weights) == set(reference.state_dict())  # what lies behind the last stage is gone
    reference.load_state_dict(weights)
    x = torch.randn(1, 3, 300, 300)
    with torch.inference_mode():
        found = extractor(x)
        for level, expected in zip(found, reference(x * extractor.scale + extractor.shift), strict=True):
            torch.testing.assert_close(level, expected)
    assert shapes(found) == expected_shapes(extractor, 1)


def shapes(levels: list[torch.Tensor]) -> list[tuple[int, ...]]:
    return [tuple(level.shape) for level in levels]


def expected_shapes(extractor: torch.nn.Module, images: int) -> list[tuple[int, ...]]:
    return [(images, c, cells, cells) for c, cells in zip(extractor.level_channels, (38, 19, 10), strict=True)]


@pytest.mark.parametrize("name", ["convnext_atto", "tf_efficientnet_es", "mobilenetv3_small_050", "vgg11"])
def test_models_of_other_shapes_fit_the_default_boxes(name: str) -> None:
    with torch.device("meta"):
        extractor = create_feature_extractors(f"timm:{name}", 1)[0]
        assert shapes(extractor(torch.empty(2, 3, 300, 300))) == expected_shapes(extractor, 2)


def test_images_are_normalized_as_the_model_expects() -> None:
    torch.manual_seed(0)
    extractor = create_feature_extractors("timm:tf_efficientnet_es", 1)[0].eval()
    config = extractor.network.pretrained_cfg
    assert tuple(config["mean"]) == (0.5, 0.5, 0.5)
    pixels = torch.rand(1, 3, 300, 300)
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET_STATISTICS)
    ours = (pixels - mean) / std
    with torch.inference_mode():
        expected = extractor.network.forward_intermediates(
            (pixels - 0.5) / 0.5, indices=extractor.indices, intermediates_only=True
        )
        for found, wanted in zip(extractor(ours), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * wanted.abs().max().item())


def test_training_with_a_pointwise_convolution_on_the_image_leaves_memory_sound() -> None:
    code = """
import torch
from classification.backbones.timm_models import create_classifier
network = create_classifier("repvgg_a0").to(memory_format=torch.channels_last)
for _ in range(4):
    network.stem(torch.randn(1, 3, 224, 224).to(memory_format=torch.channels_last)).square().mean().backward()
"""
    checked = os.environ | {"MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"}
    run = subprocess.run([sys.executable, "-c", code], env=checked, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    torch.manual_seed(0)
    theirs, images = timm.create_model("repvgg_a0").eval(), torch.randn(1, 3, 75, 75)
    ours = create_classifier("repvgg_a0").eval()
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(images), theirs(images))
    assert torch.equal(pickle.loads(pickle.dumps(ours))(images), theirs(images))  # for processes that are spawned


def test_a_list_gives_each_member_its_own_model_and_adapters() -> None:
    torch.manual_seed(0)
    model = create_ssd("timm:resnet10t,mobilenetv3_small_050", 2, num_classes=3).eval()
    channels = [member.level_channels for member in model.members]
    assert channels[0] != channels[1]
    convolutions = [[layer[0].weight.shape for layer in adapter] for adapter in model.adapters]
    assert convolutions == [[(128, c, 1, 1) for c in own] for own in channels]
    with torch.inference_mode():
        deltas, logits = model(torch.randn(1, 3, 300, 300))
    assert deltas.shape == (2, 1, 8732, 4)
    assert logits.shape == (2, 1, 8732, 4)
    cost = summarize("timm:resnet10t,mobilenetv3_small_050", 2, 3)
    assert cost["params"] == sum(p.numel() for p in model.parameters())
    assert cost["params_per_member"] == [sum(p.numel() for p in member.parameters()) for member in model.members]
    assert cost["params_adapters"] == sum((c + 2) * 128 for own in channels for c in own)
    assert create_ssd("resnet10_16", 2, num_classes=3).adapters is None


def test_classifiers_start_differently_and_their_weights_go_into_a_detector(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ensemble = create_ensemble("timm:resnet10t", 2, num_classes=5, dataset="cifar10", dropout=0.2)
    assert ensemble(torch.randn(2, 3, 32, 32)).shape == (2, 2, 5)
    first, second = (member.conv1[0].weight for member in ensemble.members)
    assert not torch.equal(first, second)
    assert ensemble.members[0].drop_rate == pytest.approx(0.2 / 2**0.5)

    config = {"model": {"backbone": "timm:resnet10t", "members": 2}}
    torch.save({"kind": "classification", "model": ensemble.state_dict(), "config": config}, tmp_path / "cls.pt")
    detector = create_ssd("timm:resnet10t", 2, num_classes=3)
    load_pretrained(detector, str(tmp_path / "cls.pt"), "timm:resnet10t", ["a", "b", "c"])
    assert torch.equal(detector.members[1].network.conv1[0].weight, second)
    less = ensemble.state_dict()
    del less["members.1.layer2.0.conv1.weight"]
    torch.save({"kind": "classification", "model": less, "config": config}, tmp_path / "less.pt")
    with pytest.raises(UserError, match="do not fit"):
        load_pretrained(detector, str(tmp_path / "less.pt"), "timm:resnet10t", ["a", "b", "c"])


@pytest.mark.parametrize(
    ("backbone", "members", "message"),
    [
        ("timm:resnet19", 1, "timm has no model 'resnet19': did you mean resnet1"),
        ("timm:vit_tiny_patch16_224", 1, "no features at strides 8, 16, 32"),
        ("timm:swin_tiny_patch4_window7_224", 1, "cannot take images of 300 pixels"),
        ("timm:resnet18.bogus", 1, "timm has no model 'resnet18.bogus'"),
        ("timm:resnet10t,resnet18", 3, "names 2 networks where members is 3"),
        ("timm:", 1, "timm has no model ''"),
    ],
)
def test_what_cannot_be_built_is_refused(backbone: str, members: int, message: str) -> None:
    with pytest.raises(UserError, match=message), torch.device("meta"):
        create_feature_extractors(backbone, members)


def test_drop_path_is_divided_or_refused() -> None:
    member = create_members("timm:convnext_atto", 4, 5, "imagenet", drop_path=0.4)[0]
    rates = [module.p for module in member.modules() if type(module).__name__ == "DropPath"]
    assert rates[-1] == pytest.approx(0.2)
    for name in ("vgg11", "hrnet_w18_small"):
        with torch.device("meta"), pytest.raises(UserError, match=f"{name} drops no blocks"):
            create_members(f"timm:{name}", 2, 5, "imagenet", drop_path=0.4)
    with torch.device("meta"), pytest.raises(UserError, match="vgg11 drops no blocks"):
        create_members("timm:vgg11", 2, 5, "imagenet", drop_path=0.0)


def test_copies_that_would_stay_alike_are_refused() -> None:
    with pytest.raises(UserError, match="copies would hardly differ"):
        check_copies_differ("timm:resnet18", 2, different_views=False)
    check_copies_differ("timm:resnet18", 2, different_views=True)
    check_copies_differ("timm:resnet18,resnet34", 2, different_views=False)
    check_copies_differ("timm:resnet18", 1, different_views=False)
    check_copies_differ("resnet10_24", 2, different_views=False)  # the answer is that there are none to fetch


def test_statistics_are_the_models_and_must_agree() -> None:
    assert statistics("timm:tf_efficientnet_es") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(UserError, match="normalized differently"):
        statistics("timm:tf_efficientnet_es,resnet18")


def test_fetched_weights_are_asked_for_and_their_absence_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    create = timm.create_model

    def fetch(name: str, pretrained: bool = False, **options: object) -> torch.nn.Module:
        asked.append(pretrained)
        if pretrained:
            raise RuntimeError("no route to host\nand more")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", fetch)
    with pytest.raises(UserError, match="weights of resnet10t cannot be fetched") as caught:
        create_members("timm:resnet10t", 1, 5, "cifar10", pretrained=True)
    assert asked[-1]
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"resnet10_16 is not one of its models, which are timm:<model>: name one"):
        create_members("resnet10_16", 1, 5, "cifar10", pretrained=True)
    with pytest.raises(
        UserError, match=r"unknown backbone 'resnet18': did you .*\? \(timm's models are timm:<model>\)$"
    ):
        create_members("resnet18", 1, 5, "imagenet")
