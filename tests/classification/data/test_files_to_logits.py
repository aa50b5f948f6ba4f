"""From a PNG file on: what the network sees, and its logits, against torchvision's transforms on Pillow's images."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms as T
from torchvision.transforms import functional as F
from torchvision.transforms import v2

from classification.data.class_names import CIFAR10, CIFAR100, SVHN
from classification.data.datasets import load_images
from classification.data.views import CROP_RATIO, EvaluationViews, TrainingViews, erase, network_inputs
from classification.ensemble import Ensemble, create_ensemble
from classification.evaluation import load_ensemble
from classification.importing import import_classifier, published_image_size
from classification.settings import EvalDataSettings, EvaluateClassification, TrainClassification
from divdet.commands.eval_cls import evaluate
from divdet.engine import checkpoint
from divdet.engine.cli import parse
from divdet.engine.errors import UserError
from divdet.engine.normalize import normalize
from divdet.engine.sampling import derived_seed
from tests.reference import deterministic_weights

CONFIGS = Path(__file__).parents[3] / "configs/cls"
RECIPES = [path for path in sorted(CONFIGS.glob("*.yaml")) if path.stem not in ("cifar10_small", "shapes_backbones")]
# As the released networks were trained (tests/released_training.json)
FACTS = json.loads((Path(__file__).parents[2] / "released_training.json").read_text(encoding="utf-8"))["data"]
STATISTICS = {name: (facts["mean"], facts["std"]) for name, facts in FACTS.items()}
ERASED = {name: (facts["erasing_area"], facts["erasing_ratio"]) for name, facts in FACTS.items()}
POLICIES = {
    "cifar10": v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=(128, 128, 128)),
    "svhn": v2.AutoAugment(v2.AutoAugmentPolicy.SVHN, fill=(128, 128, 128)),
    "imagenet": v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET, fill=(128, 128, 128)),
}


def write_images(root: Path, classes: list[str], height: int, width: int) -> list[Path]:
    """A PNG file of smooth noise for each class under train/ and val/; gives those of val/, in the order of classes."""
    random = np.random.default_rng(0)
    files = []
    for name in classes:
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
        for split in ("train", "val"):
            path = root / split / name / "image.png"
            path.parent.mkdir(parents=True)
            coarse.resize((width, height), Image.Resampling.BICUBIC).save(path)
        files.append(path)
    return files


def import_published(folder: Path, backbone: str, members: int, dataset: str) -> tuple[Path, Ensemble]:
    """A checkpoint imported from a file as the authors publish them, and the network with the same weights."""
    network = create_ensemble(backbone, members, {"cifar100": 100, "imagenet": 1000}.get(dataset, 10), dataset)
    weights = deterministic_weights({key: tuple(value.shape) for key, value in network.state_dict().items()})
    network.load_state_dict(weights)
    published = {f"module.{key.replace('members', 'models', 1)}": value for key, value in weights.items()}
    torch.save({"epoch": 300, "state_dict": published}, folder / "published.pth.tar")
    checkpoint.save(import_classifier(str(folder / "published.pth.tar"), backbone, members, dataset), folder / "own.pt")
    return folder / "own.pt", network.eval()


def evaluated(config: EvaluateClassification) -> Tensor:
    """The logits [S,N,C] that eval_cls.py computes."""
    found = []

    def keep(module: nn.Module, _: object, output: Tensor) -> None:
        if isinstance(module, Ensemble):
            found.append(output)

    handle = nn.modules.module.register_module_forward_hook(keep)
    try:
        evaluate(config)
    finally:
        handle.remove()
    return torch.cat(found, dim=1)


@torch.no_grad()
def expected_logits(network: Ensemble, files: list[Path], transform: T.Compose) -> Tensor:
    return network(torch.stack([transform(Image.open(path).convert("RGB")) for path in files]))


def assert_logits(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().mean().item())


@pytest.mark.parametrize(("dataset", "classes"), [("cifar10", CIFAR10), ("cifar100", CIFAR100), ("svhn", SVHN)])
def test_small_images_reach_an_imported_network_as_they_are(tmp_path: Path, dataset: str, classes: list[str]) -> None:
    own, network = import_published(tmp_path, "resnet110", 2, dataset)
    files = write_images(tmp_path / "data", classes, 32, 32)
    data = EvalDataSettings("folder", str(tmp_path / "data"))
    transform = T.Compose([T.ToTensor(), T.Normalize(*STATISTICS[dataset])])
    found = evaluated(EvaluateClassification(str(own), data, workers=1, output=str(tmp_path)))
    assert_logits(found, expected_logits(network, files, transform))
    assert json.loads((tmp_path / "metrics.json").read_text())["input"]["std"] == STATISTICS[dataset][1]
    if dataset == "cifar100":
        return
    other = ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    data = replace(data, mean=other[0], std=other[1])
    found = evaluated(EvaluateClassification(str(own), data, workers=0, output=str(tmp_path)))
    transform = T.Compose([T.ToTensor(), T.Normalize(*other)])
    assert_logits(found, expected_logits(network, files, transform))


def test_large_images_are_resized_and_cropped_as_torchvision_does(tmp_path: Path) -> None:
    own, network = import_published(tmp_path, "resnet50", 1, "imagenet")
    _, found = load_ensemble(own)
    meta = found.meta
    resize = [T.Resize(int(1.15 * 224), T.InterpolationMode.BICUBIC), T.CenterCrop(224)]
    transform = T.Compose([*resize, T.ToTensor(), T.Normalize(*STATISTICS["imagenet"])])
    for height, width in ((300, 411), (401, 230)):
        root = tmp_path / f"{height}"
        files = write_images(root, ["a", "b"], height, width)
        images = load_images(EvalDataSettings("folder", str(root)), "val")
        views = EvaluationViews(images, meta["image_size"], meta["eval_resize"], meta["interpolation"])
        pixels = torch.stack([view for view, _ in views])
        with torch.no_grad():
            logits = network(normalize(pixels, 255 * torch.tensor(meta["mean"]), 255 * torch.tensor(meta["std"])))
        assert_logits(logits, expected_logits(network, files, transform))


@pytest.mark.parametrize(
    ("backbone", "size"),
    [("se_resnext101_64x4d", 416), ("se_resnext101_64x4d_B", 320), ("efficientnet_b7", 320), ("senet154", 224)],
)
def test_published_imagenet_networks_have_their_own_sizes(backbone: str, size: int) -> None:
    assert published_image_size(backbone, "imagenet") == size


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_training_views_are_torchvisions_given_the_same_draws(tmp_path: Path, path: Path) -> None:
    config = parse(TrainClassification, ["--config", str(path)])
    # torchvision's RandAugment has no deviation: see test_views.py
    data, small = replace(config.data, rand_augment_deviation=0.0), config.data.dataset != "imagenet"
    (file, _) = write_images(tmp_path, ["a", "b"], *((32, 32) if small else (200, 270)))
    images = load_images(EvalDataSettings("folder", str(tmp_path)), "train")
    size = 32 if small else data.image_size
    views, erased, label = TrainingViews(images, data, size, 3, seed=7)[2, 0]
    assert (views.shape, label) == ((3, size, size, 3), 0)
    mean, std = STATISTICS[data.dataset]
    inputs = network_inputs(data, size)
    assert (inputs["mean"], inputs["std"]) == (mean, std)
    found = erase(normalize(views, 255 * torch.tensor(inputs["mean"]), 255 * torch.tensor(inputs["std"])), erased)
    for member in range(3):
        seed = derived_seed(7, "views", 2, 0, member)
        random = np.random.default_rng(seed)
        image = Image.open(file)
        if small:
            top, left = random.integers(9, size=2)
            image = F.crop(F.pad(image, [4, 4]), top, left, 32, 32)
        else:
            top, left, height, width = rectangle(random, *image.size[::-1], (0.1, 1.0), CROP_RATIO)
            image = F.resized_crop(image, top, left, height, width, [size, size], F.InterpolationMode.BICUBIC)
        if random.random() < 0.5:
            image = F.hflip(image)
        torch.manual_seed(seed)
        if data.auto_augment != "rand":
            image = POLICIES[data.auto_augment](image)
        else:
            image = v2.RandAugment(2, data.rand_augment_magnitude, 11, fill=(128, 128, 128))(image)
        expected = F.normalize(F.to_tensor(image), mean, std)
        if random.random() < data.erasing:
            place = rectangle(random, size, size, *ERASED[data.dataset])
            expected = F.erase(expected, *place, v=0.0)
        torch.testing.assert_close(found[member], expected, rtol=1e-5, atol=1e-5)
        assert (found[member] == 0).all(0).sum() == (expected == 0).all(0).sum()  # to the bit


def rectangle(
    random: np.random.Generator, height: int, width: int, area: list[float], ratio: list[float]
) -> tuple[int, int, int, int]:
    """What torchvision's RandomResizedCrop and RandomErasing draw: top, left, height, width."""
    while True:
        pixels = height * width * random.uniform(*area)
        aspect = np.exp(random.uniform(*np.log(ratio)))
        h, w = round(np.sqrt(pixels * aspect)), round(np.sqrt(pixels / aspect))
        if h <= height and w <= width:
            return int(random.integers(height - h + 1)), int(random.integers(width - w + 1)), h, w


def test_opencvs_area_filter_is_the_checkpoints_own(tmp_path: Path) -> None:
    own, network = import_published(tmp_path, "resnet10_16", 2, "cifar10")
    found = checkpoint.read(own)
    found["meta"] |= {"eval_resize": 1 / 0.875, "interpolation": "area", "crop": "resized", "classes": ["a", "b"]}
    for member in range(2):
        for key in ("weight", "bias"):
            found["model"][f"members.{member}.fc.{key}"] = found["model"][f"members.{member}.fc.{key}"][:2]
            getattr(network.members[member].fc, key).data = found["model"][f"members.{member}.fc.{key}"]
    torch.save(found, own)
    files = write_images(tmp_path / "data", ["a", "b"], 75, 60)
    data = EvalDataSettings("folder", str(tmp_path / "data"))
    logits = evaluated(EvaluateClassification(str(own), data, workers=0))
    views = []
    for file in files:
        shrunk = cv2_area(np.asarray(Image.open(file)), 46, 37)  # 32 / 0.875 / 60 of 75 x 60, rounded
        views.append(F.normalize(F.to_tensor(shrunk[7:39, 2:34].copy()), *STATISTICS["cifar10"]))
    with torch.no_grad():
        assert_logits(logits, network(torch.stack(views)))
    found["meta"] |= {"interpolation": "bicubic"}
    torch.save(found, tmp_path / "new.pt")
    with pytest.raises(UserError, match="other interpolation"):
        evaluate(EvaluateClassification(str(own), data, [str(tmp_path / "new.pt")], workers=0))


def cv2_area(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
