"""The networks against the released checkpoints' counts, layouts and expected outputs."""

from pathlib import Path

import pytest
import torch

from detection import create_ssd
from detection.models.cost import summarize
from detection.models.ssd import SSD
from divdet.engine.errors import UserError
from tests.reference import assert_probe, deterministic_images, deterministic_weights, released

# GFLOPs in the paper's convention (architectures.md)
DETECTORS = {
    ("wrn50_2", 1): 48.13,
    ("wrn50_2", 2): 45.31,
    ("wrn50_3", 1): 86.77,
    ("wrn50_3", 2): 96.26,
    ("resnext101_64x4d", 1): 90.14,
    ("resnext101_64x4d", 2): 100.53,
}


@pytest.mark.parametrize(("backbone", "members"), DETECTORS)
def test_parameter_counts_and_gflops(shared: Path, backbone: str, members: int) -> None:
    counts = released(shared, "parameter_counts")
    found = summarize(backbone, members)
    assert found["params"] == counts[f"ssd300/{backbone}/S{members}"]["params"]
    assert found["gflops"] == pytest.approx(DETECTORS[backbone, members], rel=5e-4)


def test_gflops_of_the_papers_small_detector() -> None:
    assert summarize("resnet50", 1)["gflops"] == pytest.approx(22.65, rel=5e-4)


def released_key(key: str) -> str:
    """Our key as the released checkpoints spell it."""
    part, _, rest = key.partition(".")
    if part == "members":
        member, stage, layer = rest.split(".", 2)
        number = stage.removeprefix("layer")
        return f"feature_extractor.backbone.{member}.{number}.{layer}"
    return key.replace("extras.", "additional_blocks.", 1)


def released_weights(model: SSD, layout: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    by_key = deterministic_weights(layout)
    weights, used = {}, set()
    for key, value in model.state_dict().items():
        name = released_key(key)
        assert by_key[name].shape == value.shape
        weights[key] = by_key[name]
        used.add(name)
    assert used == set(by_key)
    return weights


@pytest.mark.parametrize("backbone", ["wrn50_2", "resnext101_64x4d"])
def test_outputs_of_released_weights(shared: Path, backbone: str) -> None:
    """One member; two are compared as the importer leaves them (test_importing.py)."""
    network = f"ssd300/{backbone}/S1"
    expected = released(shared, "expected_detection")[network]
    with torch.device("meta"):
        model = create_ssd(backbone, 1, num_classes=80).eval()
    model.load_state_dict(released_weights(model, released(shared, "layout_detection")[network]), assign=True)
    with torch.inference_mode():
        deltas, logits = model(deterministic_images((1, 3, 300, 300)))
    assert deltas.shape == (1, 1, 8732, 4)
    assert logits.shape == (1, 1, 8732, 81)
    assert_probe(deltas[0].transpose(1, 2), expected["locs"][0])
    assert_probe(logits[0].transpose(1, 2), expected["confs"][0])


def test_shared_layers_take_their_statistics_over_all_members_once_a_step() -> None:
    """The documented decision, checked by hand on the first shared batch norm."""
    torch.manual_seed(0)
    model = create_ssd("resnet10_16", 2, num_classes=3).train()
    images = torch.randn(2, 3, 300, 300)
    seen = []
    norm = model.extras[0][1]
    norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    model(images)
    assert len(seen) == 1
    assert len(seen[0]) == 4  # 2 members × 2 images
    torch.testing.assert_close(norm.running_mean, 0.1 * seen[0].mean(dim=(0, 2, 3)))
    assert norm.num_batches_tracked == 1


def test_shared_weights_get_the_sum_of_the_members_gradients() -> None:
    torch.manual_seed(0)
    model = create_ssd("resnet10_16", 2, num_classes=3).eval()
    images = torch.randn(1, 3, 300, 300)
    head = model.conf[0].weight

    def gradient(member: slice) -> torch.Tensor:
        model.zero_grad()
        model(images)[1][member].square().mean(dim=(1, 2, 3)).sum().backward()
        return head.grad.clone()

    torch.testing.assert_close(gradient(slice(2)), gradient(slice(1)) + gradient(slice(1, 2)), rtol=1e-4, atol=1e-7)


def test_each_member_may_have_its_own_view() -> None:
    torch.manual_seed(0)
    model = create_ssd("resnet10_16", 2, num_classes=3).eval()
    views = torch.randn(2, 1, 3, 300, 300)
    with torch.inference_mode():
        _, logits = model(views)
        for member in range(2):
            torch.testing.assert_close(logits[member], model(views[member])[1][member], rtol=1e-4, atol=1e-5)


def test_heads_start_from_xavier_behind_1024_channels_and_from_less_behind_few() -> None:
    large, small = create_ssd("resnet50", 1, num_classes=3), create_ssd("resnet10_16", 1, num_classes=3)
    extras = [layer for layer in large.extras.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert len(extras) == 10
    for layer in (*large.loc, *large.conf, *extras):
        fan = (layer.in_channels + layer.out_channels) * layer.kernel_size[0] ** 2
        bound = (6 / fan) ** 0.5  # of the uniform distribution
        assert layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert all(head.weight.std().item() == pytest.approx(0.01, rel=0.1) for head in (*small.loc, *small.conf))
    assert not any(head.bias.any() for head in (*large.loc, *large.conf, *small.loc, *small.conf))


def test_unknown_backbone_names_close_ones() -> None:
    with pytest.raises(UserError, match="wrn50_2"):
        create_ssd("wrn502")
