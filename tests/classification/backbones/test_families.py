"""Every divided network of the paper against the released code's parameters, names and logits."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from classification.backbones.efficientnet import SameConv2d, divide_channels
from classification.backbones.registry import BACKBONES, DATASETS, create_feature_extractors, create_members
from classification.backbones.regularization import DropPath, ShakeDrop
from classification.released import own_names
from divdet.engine.errors import UserError
from tests.reference import assert_probe, deterministic_images, deterministic_weights, released

CIFAR = ("se_resnet110", "se_resnet164", "efficientnet_b0", "efficientnet_b3", "densenet_bc_190", "pyramidnet272")
IMAGENET = ("se_resnet50", "se_resnext101_64x4d", "se_resnext101_64x4d_B", "senet154")
NETWORKS = [
    *(f"cifar100/{name}/S{s}" for name in CIFAR for s in (1, 2, 4)),
    *(f"cifar10/shake_shake26_2x96d/S{s}" for s in (1, 2, 4)),
    *(f"imagenet/{name}/S{s}" for name in IMAGENET for s in (1, 2)),
    *(f"imagenet/efficientnet_b7/S{s}" for s in (1, 2, 4)),
]
COMPUTED = [
    "cifar100/se_resnet110/S1",
    "cifar100/efficientnet_b0/S1",
    "cifar100/efficientnet_b0/S2",
    "cifar10/shake_shake26_2x96d/S2",
    "cifar100/densenet_bc_190/S1",
    "cifar100/pyramidnet272/S1",
    "imagenet/se_resnet50/S1",
]
# Shake-Shake's released files hold a shortcut in every block, of which only the first of a stage is used.
UNUSED = re.compile(r"stage_\d\.[123]\.shortcut\.")


def member_of(network: str) -> nn.Module:
    dataset, backbone, s = network.split("/")
    facts = DATASETS[dataset]
    with torch.device("meta"):
        return BACKBONES[backbone].build(int(s[1:]), facts.form, facts.num_classes, 0.0)


def used(layout: dict[str, list[int]]) -> dict[str, list[int]]:
    return {key: shape for key, shape in layout.items() if not UNUSED.match(key)}


@pytest.mark.parametrize("network", NETWORKS)
def test_names_shapes_and_parameters_are_the_released_ones(shared: Path, network: str) -> None:
    member = member_of(network)
    layout = released(shared, "layout_classification")[network]
    own = {key: list(tensor.shape) for key, tensor in member.state_dict().items()}
    names = own_names(network.split("/")[1], layout, own)
    assert own == {names[key]: shape for key, shape in used(layout).items()}
    found = sum(p.numel() for p in member.parameters())
    if "shake_shake" in network:
        millions = {"S1": 26.19, "S2": 23.31, "S4": 26.25}[network[-2:]]
        assert int(network[-1]) * found / 1e6 == pytest.approx(millions, abs=0.005)
    else:
        assert found == released(shared, "parameter_counts")[network]["params_per_member"]


@pytest.mark.parametrize("network", COMPUTED)
def test_logits_are_what_the_released_code_computes(shared: Path, network: str) -> None:
    expected = released(shared, "expected_classification")[network]
    layout = used(released(shared, "layout_classification")[network])
    member = member_of(network).eval()
    names = own_names(network.split("/")[1], layout, member.state_dict())
    weights = deterministic_weights(layout)
    member.load_state_dict({names[key]: weight for key, weight in weights.items()}, assign=True)
    with torch.no_grad():
        assert_probe(member(deterministic_images(expected["input"])), expected["logits"])


def test_logits_of_senet154_are_those_of_timms_port(shared: Path) -> None:
    """No released output is known; timm has the network under the released names."""
    layout = released(shared, "layout_classification")["imagenet/senet154/S1"]
    weights = deterministic_weights(layout)
    member = member_of("imagenet/senet154/S1").eval()
    names = own_names("senet154", layout, member.state_dict())
    member.load_state_dict({names[key]: weight for key, weight in weights.items()}, assign=True)
    with torch.device("meta"):
        peer = timm.create_model("legacy_senet154").eval()
    peer.load_state_dict(weights, assign=True)
    images = deterministic_images([1, 3, 64, 64])
    with torch.no_grad():
        torch.testing.assert_close(member(images), peer(images), rtol=1e-5, atol=1e-4)


def test_published_names_of_other_networks_are_kept() -> None:
    assert own_names("resnet110", ["layer0.0.weight"], []) == {"layer0.0.weight": "layer0.0.weight"}
    blocks = ["features.1.0.block.0.0.weight"]
    names = ["_blocks.7._bn1.weight", "_blocks.0._strange.weight"]
    assert own_names("efficientnet_b0", names, blocks) == {name: name for name in names}


@pytest.mark.parametrize(("members", "widths"), [(1, (64, 32, 640)), (2, (48, 24, 448)), (3, (40, 16, 368))])
def test_widths_of_efficientnet_b7(members: int, widths: tuple[int, int, int]) -> None:
    channels = divide_channels(BACKBONES["efficientnet_b7"].options["width"], members)
    assert (channels[0], channels[1], channels[7]) == widths


def test_efficientnets_other_forms() -> None:
    with torch.device("meta"):
        small, large = (create_members("efficientnet_b0", 1, 10, name)[0] for name in ("cifar10", "imagenet"))
        assert small.features(torch.empty(1, 3, 32, 32)).shape == (1, 1280, 8, 8)
        assert large.features(torch.empty(1, 3, 224, 224)).shape == (1, 1280, 7, 7)
    assert sum(isinstance(module, SameConv2d) for module in large.modules()) == 5


@pytest.mark.parametrize("size", [7, 8, 9, 12])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (3, 1)])
def test_same_padding_is_tensorflows(size: int, kernel: int, stride: int) -> None:
    """Output i sees the inputs around i·stride − ⌊total/2⌋ of a padding that makes ⌈size/stride⌉ outputs."""
    conv = SameConv2d(1, 1, kernel, stride, bias=False)
    nn.init.ones_(conv.weight)
    count = -(-size // stride)
    before = max((count - 1) * stride + kernel - size, 0) // 2
    windows = [range(i * stride - before, i * stride - before + kernel) for i in range(count)]
    seen = [sum(0 <= position < size for position in window) for window in windows]
    sums = torch.tensor(seen, dtype=torch.float32)
    torch.testing.assert_close(conv(torch.ones(1, 1, size, size))[0, 0], sums[:, None] * sums)


def drops(network: nn.Module, kind: type[nn.Module]) -> list[float]:
    return [module.p for module in network.modules() if isinstance(module, kind)]


def test_drop_probabilities_grow_with_depth_and_are_divided() -> None:
    pyramid, efficient = member_of("cifar10/pyramidnet272/S4"), member_of("cifar10/efficientnet_b0/S4")
    assert drops(pyramid, ShakeDrop) == pytest.approx([0.25 * k / 90 for k in range(1, 91)])
    assert drops(efficient, DropPath) == pytest.approx([0.1 * k / 16 for k in range(16)])


def test_drop_path_may_be_set() -> None:
    with torch.device("meta"):
        pyramid = create_members("pyramidnet272", 2, 10, "cifar10", drop_path=0.8)[0]
        efficient = create_members("efficientnet_b0", 1, 10, "cifar10", drop_path=0.0)[0]
    assert drops(pyramid, ShakeDrop)[-1] == pytest.approx(0.8 / 2**0.5)
    assert not any(drops(efficient, DropPath))
    with pytest.raises(UserError, match="resnet110 drops no blocks"):
        create_members("resnet110", 2, 10, "cifar10", drop_path=0.1)


@pytest.mark.parametrize("backbone", ["se_resnet50", "senet154"])
def test_se_networks_under_ssd300(backbone: str) -> None:
    with torch.device("meta"):
        extractor = create_feature_extractors(backbone, 1)[0]
        features = extractor(torch.empty(1, 3, 300, 300))
    assert features.shape == (1, extractor.out_channels[3], 38, 38)


def test_families_and_libraries_are_imported_where_a_network_needs_them() -> None:
    script = """
import sys
import classification.backbones.registry
assert "classification.backbones.efficientnet" not in sys.modules
import classification.training, divdet.commands.eval_cls
assert not {"torchvision", "timm"} & set(sys.modules)
classification.backbones.registry.create_members("efficientnet_b0", 1, 10, "cifar10")
assert "torchvision" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
