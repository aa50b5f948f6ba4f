import re
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from classification.backbones.dividing import Widths
from classification.backbones.registry import (
    BACKBONES,
    DATASETS,
    create_feature_extractors,
    create_members,
    find_backbone,
)
from classification.backbones.resnet import Bottleneck, ResNet
from divdet.engine.errors import UserError
from tests.reference import assert_probe, deterministic_images, deterministic_weights, released

NETWORKS = [
    *(f"cifar100/{name}/S{s}" for name in ("resnet110", "resnet164", "wrn16_8", "wrn28_10") for s in (1, 2, 4)),
    *(f"cifar100/{name}/S{s}" for name in ("wrn40_10", "resnext29_8x64d") for s in (1, 2, 4)),
    *(f"imagenet/{name}/S{s}" for name in ("resnet50", "wrn50_2", "wrn50_3", "resnext101_64x4d") for s in (1, 2)),
]
# All kinds of stem, block and shortcut; the other networks differ in numbers that the layouts check.
COMPUTED = [
    "cifar100/resnet110/S1",
    "cifar100/resnet110/S2",
    "cifar100/wrn16_8/S1",
    "cifar100/wrn28_10/S2",
    "cifar100/resnext29_8x64d/S4",
    "imagenet/resnet50/S2",
    "imagenet/wrn50_2/S2",
]
DETECTORS = [f"ssd300/{name}/S{s}" for name in ("wrn50_2", "wrn50_3", "resnext101_64x4d") for s in (1, 2)]
SMALL = ["resnet10_16", "resnet10_24", "resnet10_32", "resnet18_32", "resnet18_64"]


def members_of(network: str, device: str) -> nn.ModuleList:
    dataset, backbone, s = network.split("/")
    with torch.device(device):
        return create_members(backbone, int(s[1:]), DATASETS[dataset].num_classes, dataset)


def shapes(module: nn.Module) -> dict[str, list[int]]:
    return {key: list(tensor.shape) for key, tensor in module.state_dict().items()}


@pytest.mark.parametrize("network", NETWORKS)
def test_keys_and_shapes_are_the_released_ones(shared: Path, network: str) -> None:
    for member in members_of(network, "meta"):
        assert shapes(member) == released(shared, "layout_classification")[network]


@pytest.mark.parametrize("network", NETWORKS)
def test_parameters_are_the_released_ones(shared: Path, network: str) -> None:
    members = members_of(network, "meta")
    expected = released(shared, "parameter_counts")[network]
    assert sum(p.numel() for p in members[0].parameters()) == expected["params_per_member"]
    assert sum(p.numel() for p in members.parameters()) == expected["params"]


@pytest.mark.parametrize("network", COMPUTED)
def test_logits_are_what_the_released_code_computes(shared: Path, network: str) -> None:
    expected = released(shared, "expected_classification")[network]
    layout = released(shared, "layout_classification")[network]
    member = members_of(network, "meta")[0].eval()
    member.load_state_dict(deterministic_weights(layout), assign=True)
    with torch.no_grad():
        assert_probe(member(deterministic_images(expected["input"])), expected["logits"])


@pytest.mark.parametrize("network", DETECTORS)
def test_feature_extractor_has_the_released_detectors_keys(shared: Path, network: str) -> None:
    _, backbone, s = network.split("/")
    with torch.device("meta"):
        extractors = create_feature_extractors(backbone, int(s[1:]))
    prefix = "feature_extractor.backbone."
    layout = released(shared, "layout_detection")[network]
    ours = {
        f"{prefix}{i}.{key.removeprefix('layer')}": shape
        for i, extractor in enumerate(extractors)
        for key, shape in shapes(extractor).items()
    }
    assert ours == {key: shape for key, shape in layout.items() if key.startswith(prefix)}


@pytest.mark.parametrize("backbone", ["resnet50", "wrn50_2", "resnext101_64x4d", *SMALL])
def test_feature_map_of_ssd300_is_38_pixels_wide(backbone: str) -> None:
    with torch.device("meta"):
        extractor = create_feature_extractors(backbone, 2)[0]
        features = extractor(torch.empty(1, 3, 300, 300))
    assert features.shape == (1, extractor.out_channels[3], 38, 38)


def test_feature_extractor_takes_the_classifiers_weights() -> None:
    classifier = create_members("resnet10_16", 1, 10, "imagenet")[0].eval()
    extractor = create_feature_extractors("resnet10_16", 1)[0].eval()
    taken = {key: value for key, value in classifier.state_dict().items() if key in extractor.state_dict()}
    extractor.load_state_dict(taken)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        x2 = classifier.layer2(classifier.layer1(classifier.layer0(x)))
        torch.testing.assert_close(extractor.layer2(extractor.layer1(extractor.layer0(x))), x2)
        strided, unstrided = classifier.layer3[0], extractor.layer3[0]
        # Without its stride the first convolution gives the strided one's values at every second pixel.
        torch.testing.assert_close(unstrided.conv1(x2)[..., ::2, ::2], strided.conv1(x2))
        torch.testing.assert_close(unstrided.downsample(x2), strided.downsample[1:](x2))


@pytest.mark.parametrize(("groups", "inner"), [(1, 64), (1, 128), (8, 128)])
def test_bottleneck_network_equals_torchvisions(groups: int, inner: int) -> None:
    """Torchvision's ResNet of the same blocks and widths, given our stem and shortcuts, gives the same logits."""
    torch.manual_seed(0)
    ours = ResNet(Bottleneck, (2, 1, 2, 1), Widths(64, inner, 256, groups), True, 10, released_start=False).eval()
    peer = torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, [2, 1, 2, 1], 10, groups=groups, width_per_group=inner // groups
    ).eval()
    peer.conv1, peer.bn1, peer.relu, peer.maxpool = ours.layer0, nn.Identity(), nn.Identity(), nn.Identity()
    peer.layer1[0].conv1 = nn.Conv2d(128, inner, 1, bias=False)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        for block, our_block in zip(getattr(peer, name), getattr(ours, name), strict=True):
            block.downsample = our_block.downsample
    own = ours.state_dict()
    peer.load_state_dict(
        {
            key: own[key.replace("conv1.", "layer0.", 1)] if key.startswith("conv1.") else own[key]
            for key in peer.state_dict()
        }
    )
    x = torch.randn(2, 3, 33, 40)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), peer(x))


def test_initialization_is_kaiming_fan_out() -> None:
    torch.manual_seed(0)
    member = create_members("resnet18_64", 1, 10, "cifar10")[0]
    weight = member.layer3[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert abs(weight.mean().item()) < 1e-3
    assert (member.layer3[1].bn2.weight == 1).all()
    assert (member.layer3[1].bn2.bias == 0).all()


@pytest.mark.parametrize(
    ("backbone", "dataset", "zero_blocks", "small_classifier"),
    [
        ("resnet110", "cifar10", True, True),
        ("wrn16_8", "cifar10", True, True),
        ("resnext29_8x64d", "cifar10", True, True),
        ("resnet50", "imagenet", True, True),
        ("wrn50_2", "imagenet", True, True),
        ("se_resnet110", "cifar10", False, True),
        ("se_resnet50", "imagenet", False, True),
        ("resnet10_16", "cifar10", False, False),
    ],
)
def test_networks_start_as_the_released_ones(
    backbone: str, dataset: str, zero_blocks: bool, small_classifier: bool
) -> None:
    member = create_members(backbone, 2, 100, dataset)[0]
    blocks = [layer for name, layer in member.named_modules() if re.fullmatch(r"layer[1-9]\.\d+", name)]
    norms = [block.bn3 if isinstance(block, Bottleneck) else block.bn2 for block in blocks]
    assert len(norms) > 2
    assert all((norm.weight == (0 if zero_blocks else 1)).all() for norm in norms)
    assert all((block.bn1.weight == 1).all() for block in blocks)
    assert (member.fc.weight.std().item() == pytest.approx(1e-3, rel=0.1)) == small_classifier
    assert (not member.fc.bias.any()) == small_classifier
    convolutions = [layer for layer in member.modules() if isinstance(layer, nn.Conv2d) and layer.bias is not None]
    assert not any(layer.bias.any() for layer in convolutions)


def test_a_detectors_backbone_starts_as_the_classifiers() -> None:
    block = create_feature_extractors("resnet50", 1)[0].layer3[0]
    assert not block.bn3.weight.any()


def test_widths_of_the_quickstarts_members() -> None:
    with torch.device("meta"):
        whole, member = (create_members("resnet10_24", s, 10, "imagenet")[0] for s in (1, 2))
    assert whole.out_channels == [24, 24, 48, 96, 192]
    assert member.out_channels == [16, 16, 32, 64, 128]
    assert [member.layer0[0].out_channels, member.layer1[0].conv1.out_channels] == [8, 16]


@pytest.mark.parametrize("backbone", SMALL)
@pytest.mark.parametrize("dataset", ["cifar10", "imagenet"])
def test_small_networks_train_in_both_forms(backbone: str, dataset: str) -> None:
    member = create_members(backbone, 4, 10, dataset)[0]
    logits = member(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in member.parameters())


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("s", [3, 8])
def test_other_member_counts_have_even_widths_and_a_like_cost(backbone: str, s: int) -> None:
    form = BACKBONES[backbone].forms[0]
    with torch.device("meta"):
        member, whole = (BACKBONES[backbone].build(members, form, 100, 0.0) for members in (s, 1))
    # Halves of an even width (DenseNet, Shake-Shake's shortcut, squeezes of SE) and PyramidNet's steps may be odd.
    if not backbone.startswith(("densenet", "pyramidnet", "shake_shake")):
        convs = [(name, m) for name, m in member.named_modules() if isinstance(m, nn.Conv2d)]
        assert all(conv.out_channels % 2 == 0 for name, conv in convs if not name.endswith(".fc1"))
    # Outputs of 256 to 2048 channels, which these do not divide, bound how small a member becomes.
    if not backbone.startswith(("wrn50", "se_resnext101", "senet154")):
        counts = [sum(p.numel() for p in module.parameters()) for module in (member, whole)]
        assert 0.6 < s * counts[0] / counts[1] < 1.7


@pytest.mark.parametrize(
    ("backbone", "members", "num_classes", "dataset", "message"),
    [
        ("wrn22_8", 2, 10, "cifar10", "unknown backbone 'wrn22_8': did you mean wrn16_8, wrn28_10, wrn28_<k>"),
        ("zzz", 2, 10, "cifar10", "one of resnet50, "),
        ("resnet110", 2, 10, "cifar", "unknown dataset 'cifar': did you mean cifar"),
        ("resnet110", 2, 1000, "imagenet", "resnet110 has no imagenet form"),
        ("wrn50_2", 2, 10, "cifar10", "wrn50_2 has no cifar form"),
        ("resnext29_8x64d", 16, 10, "cifar10", "8 groups cannot be divided into 16 members"),
        ("resnet110", 0, 10, "cifar10", "members is 0"),
        ("resnet110", 2, 0, "cifar10", "num_classes is 0"),
        ("resnet110", 2, "10", "cifar10", "num_classes is '10'"),
        ("resnet110", 2, 10, None, "unknown dataset None: one of cifar10"),
        (None, 2, 10, "cifar10", "backbone is None: give its name"),
    ],
)
def test_bad_arguments(backbone: str, members: int, num_classes: int, dataset: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_members(backbone, members, num_classes, dataset)


def test_a_network_of_both_forms_is_one() -> None:
    assert find_backbone("resnet10_16", "imagenet") is find_backbone("resnet10_16", "cifar")
