import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.transforms import functional as F
from torchvision.transforms import v2

from classification.data.datasets import ImageSet, load_images
from classification.data.rand_augment import RandAugment
from classification.data.views import (
    CROP_RATIO,
    EvaluationViews,
    TrainingViews,
    center_crop,
    crop_kind,
    erase,
    mixup,
    padded_crop,
    random_rectangle,
    resized_crop,
)
from classification.settings import DataSettings
from divdet.engine.errors import UserError
from divdet.engine.normalize import normalize
from divdet.engine.sampling import derived_seed
from tests.classification.generated import CLASSES, generated_images, write_npz

FULL = DataSettings(dataset="npz", auto_augment="cifar10", erasing=0.5)
PLAIN = DataSettings(dataset="npz", crop="none", flip=0)


def image_set(count: int = 24, size: int = 16) -> ImageSet:
    images, labels = generated_images(count, size)
    return ImageSet("generated", CLASSES, labels, images)


def views(settings: DataSettings, members: int = 2, seed: int = 0, size: int = 16) -> TrainingViews:
    return TrainingViews(image_set(), settings, size, members, seed)


@pytest.mark.parametrize("crop", ["padded", "resized"])
def test_members_see_different_views(crop: str) -> None:
    data = views(replace(FULL, crop=crop), members=3)
    batches = [data[0, i][0] for i in range(24)]
    assert batches[0].shape == (3, 16, 16, 3)
    assert batches[0].dtype == torch.uint8
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert sum(not torch.equal(batch[a], batch[b]) for batch in batches) >= 22


def test_rand_augment_is_torchvisions_and_its_magnitude_counts() -> None:
    plain = [views(PLAIN, members=1)[0, i][0] for i in range(12)]
    distances = []
    for magnitude in (1, 25):
        settings = replace(PLAIN, auto_augment="rand", rand_augment_magnitude=magnitude)
        augmented = [views(settings, members=1)[0, i][0] for i in range(12)]
        assert all(view.shape == (1, 16, 16, 3) for view in augmented)
        changes = [(a.float() - b.float()).abs().mean().item() for a, b in zip(augmented, plain, strict=True)]
        distances.append(sum(changes) / len(changes))
    assert 0 < distances[0] < distances[1]
    policy = views(replace(PLAIN, auto_augment="rand", rand_augment_operations=3)).auto_augment
    assert isinstance(policy, v2.RandAugment)
    assert (policy.num_ops, policy.magnitude) == (3, 9)


def test_views_depend_on_seed_epoch_and_index_alone() -> None:
    first, second = views(FULL), views(FULL)
    expected = [first[3, i][0] for i in range(24)]
    torch.rand(5)
    assert all(torch.equal(second[3, i][0], expected[i]) for i in reversed(range(24)))
    assert sum(torch.equal(second[4, i][0], expected[i]) for i in range(24)) <= 1
    assert sum(torch.equal(views(FULL, seed=1)[3, i][0], expected[i]) for i in range(24)) <= 1


@pytest.mark.parametrize("workers", [1, 2])
def test_views_do_not_depend_on_the_workers(workers: int) -> None:
    data = views(FULL)
    keys = [(1, i) for i in range(24)]
    loader = DataLoader(data, 8, sampler=keys, num_workers=workers)
    loaded = [torch.cat(part) for part in zip(*loader, strict=True)]
    alone = [data[key] for key in keys]
    assert torch.equal(loaded[0], torch.stack([view for view, _, _ in alone]))
    assert torch.equal(loaded[1], torch.stack([erased for _, erased, _ in alone]))
    assert loaded[2].tolist() == [label for _, _, label in alone]


def test_the_same_view_for_all_members_is_the_first_of_different_ones() -> None:
    same, different = views(replace(FULL, different_views=False), members=4)[2, 5][0], views(FULL)[2, 5][0]
    assert same.shape == (1, 16, 16, 3)
    assert torch.equal(same[0], different[0])


def test_random_state_of_the_process_is_left_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    for i in range(24):
        views(FULL)[0, i]
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == before_numpy).all()


def test_without_augmentation_a_view_is_the_image() -> None:
    data = image_set()
    for i in range(24):
        view, erased, label = views(PLAIN)[0, i]
        assert not erased.any()
        assert (view.numpy() == data.read(i)).all()
        assert label == data.labels[i]


def test_flip_is_left_right_at_its_probability() -> None:
    data = image_set()
    always = views(replace(PLAIN, flip=1.0))[0, 7][0]
    assert (always.numpy() == data.read(7)[:, ::-1]).all()
    half = views(replace(PLAIN, flip=0.5), members=400)[0, 7][0].numpy()
    flipped = (half == data.read(7)[:, ::-1]).all((1, 2, 3))
    assert ((half == data.read(7)).all((1, 2, 3)) ^ flipped).all()
    assert 160 < flipped.sum() < 240


GRAY = (128, 128, 128)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"auto_augment": "imagenet"}, v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET, fill=GRAY)),
        ({"auto_augment": "svhn"}, v2.AutoAugment(v2.AutoAugmentPolicy.SVHN, fill=GRAY)),
        ({"auto_augment": "rand", "rand_augment_levels": 11}, v2.RandAugment(2, 9, 11, fill=GRAY)),
    ],
)
def test_policies_are_torchvisions_and_fill_with_gray(settings: dict, expected: v2.Transform) -> None:
    image = image_set().read(3)
    for member, view in enumerate(views(replace(PLAIN, **settings), members=16)[2, 3][0]):
        torch.manual_seed(derived_seed(0, "views", 2, 3, member))
        assert (view.numpy() == np.asarray(expected(Image.fromarray(image)))).all()


def test_rand_augments_magnitude_is_drawn_for_every_operation() -> None:
    policy = RandAugment(2, 9, 11, deviation=0.5)
    torch.manual_seed(0)
    drawn, others = [], set()
    while len(drawn) < 2000:
        name, (strengths, signed) = policy._get_random_item(policy._AUGMENTATION_SPACE)
        if name == "Rotate":
            assert signed
            drawn.append(float(strengths(11, 32, 32)[9]) / 3)  # of 30 degrees at magnitude 10
        elif strengths(11, 32, 32) is None:
            others.add(name)
    assert others == {"Identity", "AutoContrast", "Equalize"}
    assert np.mean(drawn) == pytest.approx(9, abs=0.05)
    assert np.std(drawn) == pytest.approx(0.48, abs=0.03)  # less than 0.5, since the scale ends at 10
    assert max(drawn) == pytest.approx(10)


def test_padded_crop_takes_every_place() -> None:
    image = generated_images(1, 8)[0][0]
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    places = [padded[t : t + 8, l : l + 8].tobytes() for t in range(5) for l in range(5)]  # noqa: E741
    random = np.random.default_rng(0)
    seen = {places.index(padded_crop(image, 2, random).tobytes()) for _ in range(400)}
    assert seen == set(range(25))


def test_repetitions_of_an_image_are_other_views_of_it() -> None:
    data = views(FULL, members=1)
    count = len(data)
    seen = [data[0, 1 + repetition * count] for repetition in range(8)]
    assert len({view.numpy().tobytes() for view, *_ in seen}) >= 7
    assert {label for *_, label in seen} == {data[0, 1][-1]}


def test_erasing_zeroes_one_rectangle_after_normalization() -> None:
    settings = replace(PLAIN, erasing=0.5, erasing_area=[0.1, 0.3], erasing_ratio=[0.5, 1.0])
    _, erased, _ = views(settings, members=300, size=32)[0, 0]
    present = erased[:, 2] > 0
    assert 120 < present.sum() < 180
    assert not erased[~present].any()
    images = torch.rand(300, 2, 3, 32, 32).movedim(1, 0) + 0.1
    result = erase(images.clone(), erased.expand(2, 300, 4))
    for mask, (top, left, height, width) in zip((result == 0).all((0, 2)), erased, strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        assert mask.sum() == height * width
        assert not mask.any() or [rows.min(), columns.min()] == [top, left]
        assert not mask.any() or [rows.max() + 1, columns.max() + 1] == [top + height, left + width]
    untouched = result != 0
    assert torch.equal(result[untouched], images[untouched])
    assert untouched.sum() == images.numel() - 6 * (erased[:, 2] * erased[:, 3]).sum()


def test_random_rectangles_fill_their_ranges() -> None:
    random, area, ratio = np.random.default_rng(0), (0.02, 0.4), (0.3, 1 / 0.3)
    found = [random_rectangle(200, 100, area, ratio, random) for _ in range(2000)]
    t, l, h, w = np.array([r for r in found if r]).T  # noqa: E741
    assert ((t >= 0) & (l >= 0) & (t + h <= 200) & (l + w <= 100)).all()
    share = h * w / 20_000
    assert area[0] * 0.9 < share.min() < 0.03
    assert 0.37 < share.max() < area[1] * 1.1
    assert random_rectangle(10, 10, (2.0, 3.0), (1.0, 1.0), random) is None


def test_resized_crop_shows_a_part_of_the_image() -> None:
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None], (200, 100, 3))
    random = np.random.default_rng(0)
    image = np.ascontiguousarray(ramp)
    crops = [resized_crop(image, 32, (0.08, 1), "area", random) for _ in range(200)]
    assert {crop.shape for crop in crops} == {(32, 32, 3)}
    tops, bottoms = (np.array([crop[row].mean() for crop in crops]) for row in (0, -1))
    assert (tops < bottoms).all()
    assert tops.min() < 20
    assert bottoms.max() > 180
    assert (bottoms - tops).min() < 50 < 90 < (bottoms - tops).max()


def test_crops_are_torchvisions_given_the_same_draws() -> None:
    image = np.random.default_rng(1).integers(0, 256, (45, 70, 3), np.uint8)
    picture = Image.fromarray(image)
    for seed in range(20):
        top, left, height, width = random_rectangle(45, 70, (0.1, 1), CROP_RATIO, np.random.default_rng(seed))
        expected = F.resized_crop(picture, top, left, height, width, [32, 32], F.InterpolationMode.BICUBIC)
        view = resized_crop(image, 32, (0.1, 1), "bicubic", np.random.default_rng(seed))
        assert (view == np.asarray(expected)).all()
        top, left = np.random.default_rng(seed).integers(9, size=2)
        padded = F.pad(picture, [4, 4])
        assert (padded_crop(image, 4, np.random.default_rng(seed)) == F.crop(padded, top, left, 45, 70)).all()
    for shape in ((300, 20), (20, 300)):  # where no draw fits
        long = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
        _, _, height, width = T.RandomResizedCrop.get_params(Image.fromarray(long), [0.9, 1], CROP_RATIO)
        middle = F.center_crop(Image.fromarray(long), [height, width])
        expected = F.resize(middle, [32, 32], F.InterpolationMode.BICUBIC)
        view = resized_crop(long, 32, (0.9, 1), "bicubic", np.random.default_rng(0))
        assert (view == np.asarray(expected)).all()


@pytest.mark.parametrize(("height", "width"), [(300, 500), (333, 250), (257, 401), (64, 71), (100, 100)])
@pytest.mark.parametrize("size", [96, 224])
def test_center_crop_is_torchvisions(height: int, width: int, size: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    for name, filtering in (("bicubic", F.InterpolationMode.BICUBIC), ("bilinear", F.InterpolationMode.BILINEAR)):
        transform = T.Compose([T.Resize(int(1.15 * size), filtering), T.CenterCrop(size)])
        assert (center_crop(image, size, 1.15, name) == np.asarray(transform(Image.fromarray(image)))).all()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (40, 30), (9, 31), (1, 50)])
@pytest.mark.parametrize("resize", [1.0, 1.15])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "area"])
def test_center_crop_is_centered_and_of_the_size(height: int, width: int, resize: float, interpolation: str) -> None:
    image = np.full((height, width, 3), 100, np.uint8)
    image[:, : width // 2], image[:, (width + 1) // 2 :] = 50, 150
    view = center_crop(image, 16, resize, interpolation)
    assert view.shape == (16, 16, 3)
    assert view.mean() == pytest.approx(100, abs=8)


def test_evaluation_sees_the_whole_of_a_small_image_and_the_middle_of_a_large_one() -> None:
    data = image_set()
    small, label = EvaluationViews(data, 16, 1.0, "bicubic")[5]
    assert (small.numpy() == data.read(5)).all()
    assert label == data.labels[5]
    framed = np.zeros((256, 256, 3), np.uint8)
    framed[16:240, 16:240] = 200
    large = ImageSet("framed", CLASSES, np.zeros(1, int), framed[None])
    assert (EvaluationViews(large, 224, 1 / 0.875, "area")[0][0] == 200).all()


@pytest.mark.parametrize(("size", "expected"), [(32, "padded"), (64, "padded"), (65, "resized")])
def test_crop_follows_the_size_unless_it_is_set(size: int, expected: str) -> None:
    assert crop_kind(DataSettings(), size) == expected
    assert crop_kind(DataSettings(crop="none"), size) == "none"


def test_normalize_equals_torchvisions() -> None:
    images = torch.randint(256, (2, 3, 5, 5, 3), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    ours = normalize(images, 255 * torch.tensor(mean), 255 * torch.tensor(std))
    planes = images.movedim(-1, -3)
    expected = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])(planes)
    torch.testing.assert_close(ours, expected)
    assert ours[0].is_contiguous(memory_format=torch.channels_last)


def test_mixup_mixes_all_views_and_the_labels_alike() -> None:
    labels = torch.tensor([0, 1, 2, 1])
    marks = torch.nn.functional.one_hot(labels, 3).float()  # images that show their own labels
    images = torch.stack([marks, 2 * marks])[..., None, None].expand(2, 4, 3, 4, 4)
    shares = []
    for seed in range(50):
        torch.manual_seed(seed)
        mixed, targets = mixup(images, labels, 3, alpha=0.5)
        torch.testing.assert_close(mixed[0, :, :, 0, 0], targets)
        torch.testing.assert_close(mixed[1], 2 * mixed[0])
        torch.testing.assert_close(targets.sum(1), torch.ones(4))
        shares.append(targets[0, 0].item())
        torch.testing.assert_close(targets, shares[-1] * marks + (1 - shares[-1]) * marks.roll(1, 0))
    assert min(shares) < 0.1
    assert max(shares) > 0.9


def test_npz_images_of_another_size_are_brought_to_the_networks(tmp_path: Path) -> None:
    data = load_images(DataSettings(dataset="npz", root=str(write_npz(tmp_path / "a.npz"))), "train")
    assert TrainingViews(data, PLAIN, 24, 2, 0)[0, 0][0].shape == (2, 24, 24, 3)
    assert EvaluationViews(data, 24, 1.0, "bicubic")[0][0].shape == (24, 24, 3)


def test_a_line_of_pixels_is_not_enlarged_as_a_whole() -> None:
    line = np.random.default_rng(0).integers(0, 256, (1, 60_000, 3), np.uint8)
    tracemalloc.start()
    view = center_crop(line, 64, 1.0, "bicubic")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert view.shape == (64, 64, 3)
    assert most < 2**20
    assert (center_crop(line[:, 29_992:30_008], 64, 1.0, "bicubic") == view).all()
    upright = center_crop(line.transpose(1, 0, 2), 64, 1.0, "bicubic").transpose(1, 0, 2)
    assert np.abs(upright.astype(int) - view).max() <= 1  # of rounding


@pytest.mark.parametrize(
    "setting",
    [
        *({"padding": 10**9}, {"rand_augment_operations": 10**9}, {"padding": -1}),
        *({"rand_augment_magnitude": 31}, {"rand_augment_deviation": -1.0}, {"extra": True}),
        *(
            {"erasing_area": [0.2, 0.1]},
            {"erasing_area": [0.5]},
            {"erasing_ratio": [0.0, 1.0]},
            {"crop_area": [0.1, 1.1]},
        ),
        *({"mean": [0.5]}, {"std": [0.1, 0.1, 0.0]}, {"std": [0.1, 0.1, math.nan]}, {"eval_resize": 0.9}),
    ],
)
def test_settings_out_of_their_range_are_refused(setting: dict) -> None:
    with pytest.raises(UserError, match=rf"data\.{next(iter(setting))}"):
        DataSettings(**setting)
