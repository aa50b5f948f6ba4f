"""Networks of any width by name (Fig. 1): their costs against the fixed names', and the widths that are refused."""

import pytest
import torch

from classification.backbones.cost import summarize
from classification.backbones.efficientnet import divide_channels
from classification.backbones.registry import (
    BACKBONES,
    WIDTH_SWEEPS,
    create_feature_extractors,
    create_members,
    find_backbone,
)
from detection.models.ssd import create_ssd
from divdet.commands.network_settings import Summary
from divdet.commands.summary import print_summary
from divdet.engine.errors import UserError


def widths(backbone: str, members: int, dataset: str) -> list[int]:
    """Output channels of all convolutions of a member, in order, squeezes left out."""
    with torch.device("meta"):
        member = find_backbone(backbone, dataset).build(members, dataset, 100, 0.0)
    convs = [(name, m) for name, m in member.named_modules() if isinstance(m, torch.nn.Conv2d)]
    return [conv.out_channels for name, conv in convs if not name.endswith((".fc1", ".fc2"))]


@pytest.mark.parametrize("s", [1, 2, 4])
def test_a_width_of_the_paper_is_its_network(s: int) -> None:
    """Costs of B0 by another way of writing its width; of widths that no fixed name has, from the rules by hand."""
    assert summarize("efficientnet_w1.0", s, "cifar100") == summarize("efficientnet_b0", s, "cifar100")
    assert summarize("efficientnet_w1", s, "imagenet") == summarize("efficientnet_b0", s, "imagenet")
    # Appendix d: 4 / √S + 0.4 is 4.4, 3.2, 2.4; stem 16
    assert set(widths("wrn28_4", s, "cifar")) == {16, *(16 * {1: 4, 2: 3, 4: 2}[s] * 2**k for k in range(3))}
    # Appendix e: groups of 64 channels, 12 / S of them
    inner = 64 * 12 // s
    assert set(widths("resnext29_12x64d", s, "cifar")) == {64} | {w * 2**k for k in range(3) for w in (inner, 256)}
    # Sec. III-A: 40 / √S to the nearest even number, its half in the stem
    stem, first = {1: (20, 40), 2: (14, 28), 4: (10, 20)}[s]
    assert set(widths("resnet10_40", s, "cifar")) == {stem, *(first * 2**k for k in range(3))}


def test_efficientnets_channels_are_multiplied_by_the_factor() -> None:
    # Tan and Le's rounding to multiples of 8 of 2.6 times the stem, the stages and the last convolution
    spec = find_backbone("efficientnet_w2.6")
    assert divide_channels(spec.options["width"], 1) == [80, 40, 64, 104, 208, 288, 496, 832, 3328]
    assert spec.options["depth"] == 1.0


@pytest.mark.parametrize("name", ["resnet10_16", "resnet18_64", "wrn16_8", "wrn28_10", "wrn40_10", "resnext29_8x64d"])
def test_fixed_names_are_widths_of_their_family(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = [summarize(name, s, "cifar100") for s in (1, 2, 4)]
    monkeypatch.delitem(BACKBONES, name)
    assert [summarize(name, s, "cifar100") for s in (1, 2, 4)] == fixed


@pytest.mark.parametrize("name", ["wrn16_2", "wrn28_3", "resnext29_4x64d", "resnet10_12", "resnet18_20"])
def test_a_sweep_trains(name: str) -> None:
    member = create_members(name, 2, 10, "cifar10")[1]
    member(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in member.parameters())


def test_detectors_stand_on_the_families_that_have_the_form() -> None:
    with torch.device("meta"):
        assert [create_ssd(name, 2, 3).members[0].out_channels[-1] for name in ("resnet10_20", "resnet18_48")] == [
            4 * 14,
            4 * 34,
        ]
        # Appendix d and e: 64 times 4 / √2 + 0.4, rounded down; 256 outputs. Tan and Le's rounding of 0.5 · 136 at S=2.
        for name, width in (("wrn28_4", 64 * 3), ("resnext29_4x64d", 1024), ("efficientnet_w0.5", 112)):
            assert create_feature_extractors(name, 2)[1].level_channels[-1] == width


@pytest.mark.parametrize(
    ("name", "members", "message"),
    [
        ("wrn16_0", 1, r"backbone wrn16_0: k of wrn16_<k> must be a whole number from 1 to 50$"),
        ("wrn28_-4", 1, "must be a whole number from 1 to 50"),
        ("wrn28_2.5", 1, "must be a whole number from 1 to 50"),
        ("wrn28_" + "9" * 5000, 1, "must be a whole number from 1 to 50"),
        ("resnet10_1", 1, "must be a whole number from 2 to 512"),
        ("resnet18_100000", 1, "must be a whole number from 2 to 512"),
        ("resnext29_0x64d", 1, "must be a whole number from 1 to 256"),
        ("efficientnet_w0", 1, r"must be a number from 0.1 to 16$"),
        ("efficientnet_w99", 1, "must be a number from 0.1 to 16"),
        ("wrn16_1", 4, "a widen factor of 1 cannot be divided into 4 members"),
        ("resnext29_3x64d", 4, "3 groups cannot be divided into 4 members"),
        ("resnet10_4", 32, "a width of 4 channels cannot be divided into 32 members"),
        ("resnext29_8x32d", 1, "unknown backbone 'resnext29_8x32d': did you mean resnext29_8x64d, resnext29_<c>x64d"),
        ("efficientnet_wide", 1, "unknown backbone 'efficientnet_wide': did you mean efficientnet_b"),
        ("wrn28_٣", 1, "unknown backbone"),
    ],
)
def test_impossible_widths_are_refused(name: str, members: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        print_summary(Summary("cls", name, members))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("pattern", WIDTH_SWEEPS)
def test_the_bounds_of_a_sweep_can_be_counted(pattern: str, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = WIDTH_SWEEPS[pattern]
    for width in (sweep.smallest, sweep.largest):
        name = f"{pattern.split('<')[0]}{width}{pattern.split('>')[1]}"
        print_summary(Summary("cls", name, 1))
        assert capsys.readouterr().out.startswith(f"{name} on cifar100\n")
