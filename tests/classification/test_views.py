import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from classification.config import DataSettings
from classification.datasets import ImageSet, load_images
from classification.views import (
    ERASED_AREA,
    ERASED_RATIO,
    EvaluationViews,
    TrainingViews,
    centre_crop,
    crop_kind,
    mixup,
    normalize,
    padded_crop,
    random_rectangle,
    resized_crop,
)
from engine.errors import UserError
from engine.sampling import derived_seed
from tests.classification.generated import CLASSES, generated_images, write_npz

FULL = DataSettings(dataset="npz", auto_augment="cifar10", erasing=0.5)
PLAIN = DataSettings(dataset="npz", crop="none", flip=0)
FILL = (0.5, 0.25, 0.125)


def as_is(image: np.ndarray) -> np.ndarray:
    return image


def image_set(count: int = 24, size: int = 16) -> ImageSet:
    images, labels = generated_images(count, size)
    return ImageSet("generated", CLASSES, labels, images, as_is)


def views(settings: DataSettings, members: int = 2, seed: int = 0, size: int = 16) -> TrainingViews:
    return TrainingViews(image_set(), settings, size, members, seed, FILL)


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
    loaded = torch.cat([batch for batch, _ in loader])
    assert torch.equal(loaded, torch.stack([data[key][0] for key in keys]))


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
        view, label = views(PLAIN)[0, i]
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


def test_auto_augment_is_torchvisions() -> None:
    image = image_set().read(3)
    for member, view in enumerate(views(replace(PLAIN, auto_augment="imagenet"), members=8)[2, 3][0]):
        torch.manual_seed(derived_seed(0, "views", 2, 3, member))
        expected = v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET)(Image.fromarray(image))
        assert (view.numpy() == np.asarray(expected)).all()


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
    assert len({view.numpy().tobytes() for view, _ in seen}) >= 7
    assert {label for _, label in seen} == {data[0, 1][1]}


def test_erasing_fills_one_rectangle_with_the_mean() -> None:
    black = ImageSet("black", CLASSES, np.zeros(1, int), np.zeros((1, 32, 32, 3), np.uint8), as_is)
    settings = replace(PLAIN, erasing=0.5)
    batch = TrainingViews(black, settings, 32, 300, 0, FILL)[0, 0][0].numpy()
    erased = (batch == np.round(np.array(FILL) * 255)).all(-1)
    assert ((batch == 0).all(-1) ^ erased).all()
    present = erased.any((1, 2))
    assert 120 < present.sum() < 180
    for mask in erased[present]:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == rows * columns
        assert 0.01 < mask.mean() < 0.43


def test_random_rectangles_fill_their_ranges() -> None:
    random = np.random.default_rng(0)
    found = [random_rectangle(200, 100, ERASED_AREA, ERASED_RATIO, random) for _ in range(2000)]
    t, l, h, w = np.array([r for r in found if r]).T  # noqa: E741
    assert ((t >= 0) & (l >= 0) & (t + h <= 200) & (l + w <= 100)).all()
    share = h * w / 20_000
    assert ERASED_AREA[0] * 0.9 < share.min() < 0.03
    assert 0.37 < share.max() < ERASED_AREA[1] * 1.1
    assert random_rectangle(10, 10, (2.0, 3.0), (1.0, 1.0), random) is None


def test_resized_crop_shows_a_part_of_the_image() -> None:
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None], (200, 100, 3))
    random = np.random.default_rng(0)
    crops = [resized_crop(np.ascontiguousarray(ramp), 32, random) for _ in range(200)]
    assert {crop.shape for crop in crops} == {(32, 32, 3)}
    tops, bottoms = (np.array([crop[row].mean() for crop in crops]) for row in (0, -1))
    assert (tops < bottoms).all()
    assert tops.min() < 20
    assert bottoms.max() > 180
    assert (bottoms - tops).min() < 50 < 90 < (bottoms - tops).max()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (40, 30), (9, 31), (1, 50)])
@pytest.mark.parametrize("share", [1.0, 0.875])
def test_centre_crop_is_centred_and_of_the_size(height: int, width: int, share: float) -> None:
    image = np.full((height, width, 3), 100, np.uint8)
    image[:, : width // 2], image[:, (width + 1) // 2 :] = 50, 150
    view = centre_crop(image, 16, share)
    assert view.shape == (16, 16, 3)
    assert view.mean() == pytest.approx(100, abs=8)


def test_evaluation_sees_the_whole_of_a_small_image_and_the_middle_of_a_large_one() -> None:
    data = image_set()
    small, label = EvaluationViews(data, 16, "padded")[5]
    assert (small.numpy() == data.read(5)).all()
    assert label == data.labels[5]
    framed = np.zeros((256, 256, 3), np.uint8)
    framed[16:240, 16:240] = 200
    large = ImageSet("framed", CLASSES, np.zeros(1, int), framed[None], as_is)
    assert (EvaluationViews(large, 224, "resized")[0][0] == 200).all()


@pytest.mark.parametrize(("size", "expected"), [(32, "padded"), (64, "padded"), (65, "resized")])
def test_crop_follows_the_size_unless_it_is_set(size: int, expected: str) -> None:
    assert crop_kind(DataSettings(), size) == expected
    assert crop_kind(DataSettings(crop="none"), size) == "none"


def test_normalize_equals_torchvisions() -> None:
    images = torch.randint(256, (2, 3, 5, 5, 3), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    ours = normalize(images, torch.tensor(mean), torch.tensor(std))
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
    assert TrainingViews(data, PLAIN, 24, 2, 0, FILL)[0, 0][0].shape == (2, 24, 24, 3)
    assert EvaluationViews(data, 24, "padded")[0][0].shape == (24, 24, 3)


def test_a_line_of_pixels_is_not_enlarged_as_a_whole() -> None:
    line = np.random.default_rng(0).integers(0, 256, (1, 60_000, 3), np.uint8)
    tracemalloc.start()
    view = centre_crop(line, 64)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert view.shape == (64, 64, 3)
    assert most < 2**20
    assert (centre_crop(line[:, 29_992:30_008], 64) == view).all()
    upright = centre_crop(line.transpose(1, 0, 2), 64).transpose(1, 0, 2)
    assert np.abs(upright.astype(int) - view).max() <= 1  # of rounding


@pytest.mark.parametrize("setting", [{"padding": 10**9}, {"rand_augment_operations": 10**9}, {"padding": -1}])
def test_settings_that_would_never_end_are_refused(setting: dict) -> None:
    with pytest.raises(UserError, match=rf"data\.{next(iter(setting))}"):
        DataSettings(**setting)
