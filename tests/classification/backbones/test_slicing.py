"""Slices of trained networks."""

import pytest
import torch
from torch import nn

from classification import create_ensemble
from classification.backbones.slicing import deal, slices
from divdet.engine.errors import UserError

NETWORKS = [
    ("resnet10_16", "imagenet"),
    ("wrn16_4", "cifar10"),
    ("resnext29_4x64d", "cifar10"),
    ("resnet50", "imagenet"),
    ("timm:resnet18", "imagenet"),
]


def trained(backbone: str, dataset: str) -> nn.Module:
    """A network with batch norms as training leaves them: none the identity, none zero."""
    torch.manual_seed(0)
    network = create_ensemble(backbone, 1, 5, dataset).members[0].eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return network


@pytest.mark.parametrize(("backbone", "dataset"), NETWORKS)
def test_members_of_the_full_width_are_the_network(backbone: str, dataset: str) -> None:
    network = trained(backbone, dataset)
    for weights in slices(network, [network, network], 32, 0, "x"):
        assert all(torch.equal(weights[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize(("backbone", "dataset"), NETWORKS)
def test_channels_that_are_zero_can_go(backbone: str, dataset: str) -> None:
    """Where no more channels are alive than a member has, it computes what the network does."""
    network = trained(backbone, dataset).double()
    divided = f"{backbone}/2" if backbone.startswith("timm:") else backbone
    member = create_ensemble(divided, 2, 5, dataset).members[0].eval().double()
    draw, alive, narrow = torch.Generator().manual_seed(1), {}, dict(member.named_modules())
    for name, layer in network.named_modules():
        if isinstance(layer, nn.BatchNorm2d) and (left := narrow[name].num_features) < layer.num_features:
            # Layers of one width live by the same channels, so those that are added do. Of ResNeXt whole groups live
            wide, per = layer.num_features, layer.num_features // 4 if backbone.startswith("resnext") else 1
            if wide not in alive:
                kept = torch.randperm(wide // per, generator=draw)[: left // per]
                alive[wide] = torch.zeros(wide // per, dtype=bool).index_fill(0, kept, True).repeat_interleave(per)
            with torch.no_grad():
                layer.weight[~alive[wide]] = layer.bias[~alive[wide]] = 0.0
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    whole = network(images)
    assert whole.std(0).max() > 1e-5  # the images tell
    member.load_state_dict(slices(network, [member], 32, 0, "x")[0])
    torch.testing.assert_close(member(images), whole, rtol=0, atol=1e-10)


def test_what_is_added_keeps_the_same_channels() -> None:
    """All that write a stage's sum and all that read it, by the names that ResNet-50 gives them."""
    network = trained("resnet50", "imagenet")
    number = {key: value.zero_() for key, value in network.state_dict().items()}  # each weight its channel's number
    writers = ["layer2.0.downsample.2.bias", *(f"layer2.{block}.bn3.bias" for block in range(4))]
    readers = [
        *(f"layer2.{block}.conv1.weight" for block in range(1, 4)),
        *("layer3.0.conv1.weight", "layer3.0.downsample.1.weight"),
    ]
    for key in writers:
        number[key] += torch.arange(512)
    for key in readers:
        number[key] += torch.arange(512)[:, None, None]
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight)  # so that each layer alone would keep others
    members = create_ensemble("resnet50", 2, 5, "imagenet").members
    for weights in slices(network, members, 32, 0, "x"):
        kept = weights[writers[0]]
        assert kept.shape == (352,)
        assert all(torch.equal(weights[key], kept) for key in writers)
        assert all(torch.equal(weights[key][0, :, 0, 0], kept) for key in readers)


def test_all_channels_are_dealt_the_best_to_everyone() -> None:
    score = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0, 0.0])
    first, second = deal(score, 4, 2, torch.Generator().manual_seed(0))
    both = set(first.tolist()) & set(second.tolist())
    assert both == {0, 2}  # 2 · 4 - 6 are shared
    assert set(first.tolist()) | set(second.tolist()) == set(range(6))


@pytest.mark.parametrize("name", ["resnet26", "seresnet33ts", "resnext26ts", "mobilenetv3_small_050"])
def test_timms_networks_are_divided_by_the_root(name: str) -> None:
    whole, half = (create_ensemble(f"timm:{one}", 1, 5, "imagenet").members[0].eval() for one in (name, f"{name}/4"))
    assert half(torch.zeros(2, 3, 64, 64)).shape == (2, 5)
    sizes = [sum(value.numel() for value in network.parameters()) for network in (whole, half)]
    assert sizes[1] == pytest.approx(sizes[0] / 4, rel=0.25)
    for layer, wide in zip(half.modules(), whole.modules(), strict=True):
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.shape == (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
            assert layer.out_channels == round(wide.out_channels / 2)
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.num_features == len(layer.running_var)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18/1", "behind / give a number from 2"),
        ("resnet18/two", "behind / give a number from 2"),
        ("densenet121/2", "operation cat joins, splits or moves channels"),
        ("cspresnet50/2", "operation split joins, splits or moves channels"),
        ("vit_tiny_patch16_224/2", "cannot be divided by its channels"),
        ("resnet_18/2", "did you mean"),
    ],
)
def test_models_of_timm_that_cannot_be_divided(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_ensemble(f"timm:{name}", 2, 5, "imagenet")


@pytest.mark.parametrize("backbone", ["densenet_bc_190", "pyramidnet272"])
def test_networks_that_join_channels_are_refused(backbone: str) -> None:
    network = create_ensemble(backbone, 1, 5, "cifar10").members[0]
    with pytest.raises(UserError, match="joins, splits or moves channels"):
        slices(network, [network], 32, 0, backbone)


def test_layers_that_do_not_fit_are_named_with_their_shapes() -> None:
    network, other = trained("resnet10_16", "imagenet"), trained("resnet10_16", "imagenet")
    other.layer1[0].conv1 = nn.Conv2d(8, 10, 3, bias=False)
    with pytest.raises(
        UserError, match=r"\.weight \[16, .* of \[16, .* and layer1\.0\.conv1\.weight \[10, .* of \[16,"
    ):
        slices(network, [other], 32, 0, "x")
