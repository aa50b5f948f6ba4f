"""Changes of colour, against torchvision's."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from detection.data import photometric


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Every hue, saturation and value, smooth and in noise, on 300 x 300 pixels."""
    across, down = np.meshgrid(np.linspace(0, 255, 300), np.linspace(0, 255, 300))
    smooth = np.stack([across, down, (across + 2 * down) % 256], axis=-1)
    noise = np.random.default_rng(0).uniform(0, 255, smooth.shape)
    return np.where(across[..., None] > 200, noise, smooth).astype(np.uint8)


def reference(change: Callable, image: np.ndarray, amount: float) -> np.ndarray:
    """On float pixels, so that nothing is rounded on the way."""
    pixels = torch.from_numpy(image).permute(2, 0, 1).double() / 255
    return 255 * change(pixels, amount).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("factor", [0.5, 0.875, 1.0, 1.125, 1.5])
@pytest.mark.parametrize("name", ["adjust_brightness", "adjust_contrast", "adjust_saturation"])
def test_equals_torchvision(image: np.ndarray, name: str, factor: float) -> None:
    ours = getattr(photometric, name)(image, factor)
    assert ours.dtype == np.uint8
    # Half a level of rounding, and what its rounded grays carry on.
    np.testing.assert_allclose(ours, reference(getattr(F, name), image, factor), atol=1.1)


@pytest.mark.parametrize("turn", [-0.5, -0.05, -0.02, 0.0, 0.03, 0.05, 0.5])
def test_hue_is_torchvisions_but_for_its_steps(image: np.ndarray, turn: float) -> None:
    ours, theirs = photometric.adjust_hue(image, turn).astype(float), reference(F.adjust_hue, image, turn)
    difference = np.abs(ours - theirs)
    assert difference.max() <= 10  # 255 levels in a sixth of the circle of 256 steps: 6 a step
    assert difference.mean() < 1.2
    # The colour of most and least light stay what they are.
    np.testing.assert_allclose(ours.max(axis=2), image.max(axis=2), atol=1)


def test_half_of_the_images_change_in_every_order(image: np.ndarray) -> None:
    small = cv2.resize(image, (30, 30))
    changed = [photometric.jitter(small, np.random.default_rng(seed)) for seed in range(400)]
    assert 160 <= sum(not np.array_equal(view, small) for view in changed) <= 240


def test_jitter_draws_torchvisions_ranges_in_every_order(monkeypatch: pytest.MonkeyPatch) -> None:
    amounts: dict[str, list[float]] = {}
    orders = set()

    def record(name: str) -> Callable:
        def change(image: np.ndarray, amount: float) -> np.ndarray:
            amounts.setdefault(name, []).append(amount)
            order.append(name)
            return image

        return change

    for name in ("brightness", "contrast", "saturation", "hue"):
        monkeypatch.setattr(photometric, f"adjust_{name}", record(name))
    for seed in range(1000):
        order: list[str] = []
        photometric.jitter(np.zeros((2, 2, 3), np.uint8), np.random.default_rng(seed))
        orders.add(tuple(order))
    assert len(orders) == 25  # the 24, and none
    ranges = {"brightness": (0.875, 1.125), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-0.05, 0.05)}
    for name, (low, high) in ranges.items():
        spread = (high - low) * 0.02
        assert low <= min(amounts[name]) < low + spread
        assert high - spread < max(amounts[name]) <= high
