"""Boxes around masks, as pycocotools has them."""

import numpy as np
import pytest
from pycocotools import mask

from detection.data.run_lengths import box_around_runs, unpack_runs


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.99, 1])
def test_runs_and_boxes_are_pycocotools(share: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        height, width = rng.integers(1, 90, 2)
        drawn = np.asfortranarray(rng.random((height, width)) < share, np.uint8)
        drawn[: rng.integers(height), : rng.integers(width)] = 0
        encoded = mask.encode(drawn)
        runs = unpack_runs(encoded["counts"].decode())
        assert sum(runs) == drawn.size
        assert sum(runs[1::2]) == drawn.sum()
        assert box_around_runs(runs, height) == mask.toBbox(encoded).tolist()


@pytest.mark.parametrize("packed", ["é", " ", "0P", "p"])
def test_other_text_is_refused(packed: str) -> None:
    with pytest.raises(ValueError, match=r"letter|ends"):
        unpack_runs(packed)
