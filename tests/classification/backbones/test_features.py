"""Backbones of detectors at several strides: against the classifiers that they are made of."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classification.backbones.features import RoundingUpMaxPool
from classification.backbones.registry import create_feature_extractors, create_members
from divdet.engine.errors import UserError
from divdet.engine.freezing import stages

# By family: channels of the undivided network at strides 8, 16 and 32, and stages that train.freeze counts
LARGE = {
    "resnet10_16": ([32, 64, 128], 5),
    "resnet50": ([512, 1024, 2048], 5),
    "wrn50_3": ([512, 1024, 2048], 5),
    "resnext101_64x4d": ([512, 1024, 2048], 5),
    "se_resnet50": ([512, 1024, 2048], 5),
    "senet154": ([512, 1024, 2048], 5),
    "efficientnet_b0": ([40, 112, 320], 8),  # timm's num_chs
}
SMALL = {  # for small images alone
    "resnet110": ([64, 128, 256], 4),
    "se_resnet110": ([64, 128, 256], 4),
    "wrn28_10": ([160, 320, 640], 4),
    "resnext29_8x64d": ([256, 512, 1024], 4),
    "densenet_bc_190": ([80 + 31 * 40, 660 + 31 * 40, 950 + 31 * 40], 4),
    "pyramidnet272": ([4 * round(16 + 200 * k / 3) for k in (1, 2, 3)], 4),
    "shake_shake26_2x96d": ([96, 192, 384], 4),
}
FAMILIES = LARGE | SMALL


def extractor_of(backbone: str, members: int, strides: Sequence[int] | None = (8, 16, 32)) -> nn.Module:
    with torch.device("meta"):
        return create_feature_extractors(backbone, members, strides=strides)[-1].eval()


def shapes(extractor: nn.Module, height: int, width: int) -> list[tuple[int, ...]]:
    for layer in extractor.modules():
        if isinstance(layer, nn.BatchNorm2d):  # PyTorch's meta rule for it is slow
            layer.forward = lambda x: x
    with torch.no_grad():
        return [tuple(level.shape) for level in extractor(torch.empty(2, 3, height, width, device="meta"))]


def cells(side: int) -> list[int]:
    return [-(-side // stride) for stride in (8, 16, 32)]


@pytest.mark.parametrize("backbone", FAMILIES)
@pytest.mark.parametrize("members", [1, 2, 4])
def test_every_family_and_division_has_maps_of_any_image(backbone: str, members: int) -> None:
    extractor = extractor_of(backbone, members)
    channels, count = FAMILIES[backbone]
    if members == 1:
        assert extractor.level_channels == channels
        assert len(stages(extractor)) == count
    for height, width in ((300, 321), (320, 512), (337, 33)) if members == 2 else ((321, 75),):
        wanted = zip(extractor.level_channels, cells(height), cells(width), strict=True)
        assert shapes(extractor, height, width) == [(2, *shape) for shape in wanted]


def test_a_map_may_be_left_out_or_added() -> None:
    assert [shape[-1] for shape in shapes(extractor_of("resnet10_16", 2, (4, 32)), 300, 300)] == [75, 10]
    assert [shape[-1] for shape in shapes(extractor_of("efficientnet_b0", 2, (2, 4, 16)), 300, 300)] == [150, 75, 19]
    assert not any("layer4" in name for name in extractor_of("resnet10_16", 1, (8, 16)).state_dict())
    extractor = create_feature_extractors("densenet_bc_190", 8, strides=(8, 16))[0]
    sum(level.square().mean() for level in extractor(torch.randn(2, 3, 32, 32))).backward()
    assert all(parameter.grad is not None for parameter in extractor.parameters())  # no layer that nobody needs


def behind_coarse_stem(classifier: nn.Module, x: Tensor) -> Tensor:
    """Logits of a classifier for small images, by hand behind a stem of stride 8."""
    next(layer for layer in classifier.modules() if isinstance(layer, nn.Conv2d)).stride = (2, 2)
    for name, layer in classifier.named_children():
        if name in ("layer1", "block1"):
            for _ in range(2):
                x = F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-torch.inf), 3, 2)
        if name == "pool":
            break
        x = layer(x)
    return classifier.fc(x.mean((2, 3)))


def randomize_norms(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1)  # the last of a block may start at 0
            nn.init.normal_(layer.running_mean, std=0.1)


@pytest.mark.parametrize(
    "backbone",
    [
        "resnet10_16",
        "se_resnet50",
        "efficientnet_b0",
        "wrn16_4",
        "densenet_bc_190",
        "pyramidnet272",
        "shake_shake26_2x96d",
    ],
)
def test_the_last_map_is_what_the_classifier_sees(backbone: str) -> None:
    torch.manual_seed(0)
    small = backbone in SMALL or backbone == "wrn16_4"
    classifier = create_members(backbone, 8, 10, "cifar10" if small else "imagenet")[0].eval()
    extractor = create_feature_extractors(backbone, 8, strides=(8, 16, 32))[0].eval()
    randomize_norms(classifier)
    extractor.load_state_dict(extractor.from_classifier(classifier.state_dict()))
    x = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        last = extractor(x)[-1]
        if small:
            torch.testing.assert_close(classifier.fc(last.mean((2, 3))), behind_coarse_stem(classifier, x))
        elif backbone == "efficientnet_b0":
            last = classifier.features[8](last)
            torch.testing.assert_close(classifier.classifier(last.mean((2, 3))), classifier(x))
        else:
            torch.testing.assert_close(classifier.fc(last.mean((2, 3))), classifier(x))


def test_every_map_is_a_stages_output() -> None:
    classifier = create_members("resnet10_16", 1, 10, "imagenet")[0].eval()
    extractor = create_feature_extractors("resnet10_16", 1, strides=(4, 8, 16))[0].eval()
    extractor.load_state_dict(extractor.from_classifier(classifier.state_dict()))
    seen = []
    for stage in (classifier.layer1, classifier.layer2, classifier.layer3):
        stage.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    x = torch.randn(1, 3, 65, 70)
    with torch.no_grad():
        classifier(x)
        torch.testing.assert_close(extractor(x), seen, rtol=0, atol=0)


@pytest.mark.parametrize("side", [7, 8])
def test_pools_round_up(side: int) -> None:
    """SENet's pool and DenseNet's: as many cells as a padded convolution's, of what lies in the image."""
    x = torch.rand(1, 1, side, side)
    starts = range(0, side, 2)
    maxima = torch.stack([torch.stack([x[0, 0, i : i + 3, j : j + 3].max() for j in starts]) for i in starts])
    pool = RoundingUpMaxPool(3, 2, ceil_mode=True)
    assert torch.equal(pool(x)[0, 0], maxima)
    released = nn.MaxPool2d(3, 2, ceil_mode=True)(x)[0, 0]  # an odd side's last row and column are missing there
    assert torch.equal(released, maxima[: len(released), : len(released)])
    transition = extractor_of("densenet_bc_190", 4).trans1.pool
    means = torch.stack([torch.stack([x[0, 0, i : i + 2, j : j + 2].mean() for j in starts]) for i in starts])
    torch.testing.assert_close(transition(x)[0, 0], means)


def test_ssd300_takes_every_backbone() -> None:
    for backbone in ("efficientnet_b0", "wrn28_3", "densenet_bc_190"):
        extractor = extractor_of(backbone, 2, None)
        assert [shape[-1] for shape in shapes(extractor, 300, 300)] == [38, 19, 10]
    assert not hasattr(extractor_of("senet154", 2, None), "level_channels")  # one map, as the paper has it


@pytest.mark.parametrize(
    ("backbone", "strides", "message"),
    [
        ("resnet50", (8, 64), r"^resnet50 has no features at strides 8, 64; it has 4, 8, 16, 32$"),
        ("wrn28_10", (4, 8), r"^wrn28_10 has no features at strides 4, 8; it has 8, 16, 32$"),
        ("efficientnet_b0", (16, 8), r"^efficientnet_b0 has no features at strides 16, 8; it has 2, 4, 8, 16, 32$"),
        ("resnet50", (8, 8), "has no features at strides 8, 8"),
        ("resnet50", (), "has no features at strides none"),
        ("timm:vgg11", (8, 16, 64), r"^timm's vgg11 has no features at strides 8, 16, 64; it has 1, 2, 4, 8, 16, 32$"),
        ("resnet51", (8,), "unknown backbone"),
    ],
)
def test_strides_that_a_network_lacks_are_refused(backbone: str, strides: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        extractor_of(backbone, 1, strides)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("swin_tiny_patch4_window7_224", "cannot take images of 320 pixels: it is made for 224; choose another model$"),
        ("inception_v3", "makes maps of 37x37, 18x18, 8x8 cells of 320 pixels, not 40x40, 20x20, 10x10$"),
        ("vit_tiny_patch16_224", "has no features at strides 8, 16, 32; it has 16$"),
    ],
)
def test_models_of_timm_without_the_maps_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message), torch.device("meta"):
        create_feature_extractors(f"timm:{name}", 1, strides=(8, 16, 32), size=320)


def test_models_of_timm_take_any_image_and_pad_where_they_round_down() -> None:
    torch.manual_seed(0)
    for name, rounds_down in (("resnet10t", False), ("convnext_atto", True)):
        extractor = create_feature_extractors(f"timm:{name}", 1, strides=(8, 32), size=64)[0].eval()
        x = torch.randn(1, 3, 65, 100)
        with torch.inference_mode():
            levels = extractor(x)
            assert [level.shape[-2:] for level in levels] == [(9, 13), (3, 4)]
            padded = F.pad(x * extractor.scale + extractor.shift, (0, 28, 0, 31) if rounds_down else (0, 0))
            wanted = extractor.network.forward_intermediates(padded, indices=extractor.indices, intermediates_only=True)
        for level, other in zip(levels, wanted, strict=True):
            torch.testing.assert_close(level, other[..., : level.shape[-2], : level.shape[-1]])
