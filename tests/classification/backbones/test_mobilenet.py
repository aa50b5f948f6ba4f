"""MobileNetV3-Large against torchvision's."""

import pytest
import torch
from torchvision.models import mobilenet_v3_large

from classification.backbones.registry import create_members
from classification.data.statistics import IMAGENET_STATISTICS


def test_undivided_it_computes_what_torchvisions_does() -> None:
    torch.manual_seed(0)
    theirs = mobilenet_v3_large(num_classes=10, reduced_tail=True).eval()
    ours = create_members("mobilenet_v3_large", 1, 10, "imagenet")[0].eval()
    for layer in (*theirs.modules(), *ours.modules()):
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eps = 1e-3
    values = list(theirs.state_dict().values())
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    pixels = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor(IMAGENET_STATISTICS)[..., None, None]
    with torch.inference_mode():
        torch.testing.assert_close(ours((pixels - mean) / std), theirs(pixels * 2 - 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("members", [2, 4])
def test_members_together_are_about_as_large(members: int) -> None:
    with torch.device("meta"):
        divided = create_members("mobilenet_v3_large", members, 1000, "imagenet")
        whole = create_members("mobilenet_v3_large", 1, 1000, "imagenet")
    counts = [sum(p.numel() for network in networks for p in network.parameters()) for networks in (divided, whole)]
    # The classifier's hidden layer keeps its width, and widths are multiples of 8.
    assert counts[0] == pytest.approx(counts[1], rel=0.35)
