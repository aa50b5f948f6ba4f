"""Weighted boxes fusion against ensemble-boxes, and a batch of images at once; results are compared first.

python benchmarks/fusion.py
"""

import sys
import warnings
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import ensemble_boxes
import numpy as np
import torch
from torchvision.ops import batched_nms

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import describe, machine
from detection.fusion import fuse_images, weighted_boxes_fusion
from detection.prediction_settings import ConfType
from divdet.engine.timing import side_by_side

LABELS = {
    "80 classes": np.full(80, 1 / 80),
    "80 classes, skewed": 1 / np.arange(1, 81) / (1 / np.arange(1, 81)).sum(),
    "5 classes": np.full(5, 1 / 5),
    "1 class": np.ones(1),
}
Members = tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]


def after_suppression(members: int, size: int, labels: str, dtype: Any = np.float64, seed: int = 0) -> Members:
    """Boxes, scores, labels of each member: two thirds are common objects, moved a little, the rest is noise.

    Every member has ``size`` boxes, by falling score, and none overlaps another of its class by an IoU above 0.5.
    """
    rng = np.random.default_rng(seed)
    shares = LABELS[labels]

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        sides = rng.uniform(0.03, 0.35, (n, 2)) * rng.uniform(0.2, 1, (n, 1))
        corners = rng.uniform(0, 1, (n, 2)) * (1 - sides)
        return np.concatenate((corners, corners + sides), axis=1), rng.choice(len(shares), n, p=shares)

    objects, names = draw(size)
    found = []
    for _ in range(members):
        noise, noise_names = draw(20 * size)
        moved = objects + rng.normal(0, 0.06, objects.shape) * np.tile(objects[:, 2:] - objects[:, :2], 2)
        seen = rng.permutation(size)[: 2 * size // 3]
        boxes, own = np.concatenate((moved[seen], noise)).clip(0, 1), np.concatenate((names[seen], noise_names))
        ranks = torch.arange(len(boxes), 0, -1, dtype=torch.float64)  # objects stay before noise
        kept = batched_nms(torch.from_numpy(boxes), ranks, torch.from_numpy(own), 0.5)[:size].numpy()
        kept = kept[rng.permutation(len(kept))]
        found.append((boxes[kept].astype(dtype), own[kept]))
    # Distinct in float32 as well; squared, since most of a detector's scores are low.
    scores = ((rng.permutation(members * size) + 1) / (members * size + 1)) ** 2
    own_scores = [np.sort(part)[::-1].astype(dtype) for part in scores.reshape(members, size)]
    return [boxes for boxes, _ in found], own_scores, [own for _, own in found]


def theirs(found: Members, conf_type: ConfType = "avg") -> tuple[np.ndarray, ...]:
    """By ensemble-boxes, under the released decoder's thresholds."""
    return ensemble_boxes.weighted_boxes_fusion(*found, iou_thr=0.5, skip_box_thr=1e-4, conf_type=conf_type)


def ours(found: Members, conf_type: ConfType = "avg") -> tuple[np.ndarray, ...]:
    """By detection.fusion."""
    return weighted_boxes_fusion(*found, iou_thr=0.5, skip_box_thr=1e-4, conf_type=conf_type)


def check_equal(ours: tuple[np.ndarray, ...], theirs: tuple[np.ndarray, ...]) -> None:
    """Bit for bit; boxes whose fused scores are equal may come in any order."""
    np.testing.assert_array_equal(ours[1], theirs[1])
    rows = [np.column_stack((scores, labels, boxes)) for boxes, scores, labels in (ours, theirs)]
    np.testing.assert_array_equal(*(own[np.lexsort(own.T)] for own in rows))


def one_image() -> None:
    """Prints a line per case."""
    cases: list[tuple[int, int, str, Any, ConfType]] = []
    for members, size in ((2, 200), (4, 500)):
        cases += [(members, size, labels, np.float64, "avg") for labels in LABELS]
        cases += [(members, size, "80 classes", np.float32, "avg")]
        cases += [(members, size, "80 classes", np.float64, conf_type) for conf_type in get_args(ConfType)[1:]]
    print("| members x boxes | labels | arrays | conf_type | ensemble-boxes, ms | divdet, ms | times | in rounds |")
    print("|---|---|---|---|---|---|---|---|")
    for members, size, labels, dtype, conf_type in cases:
        found = after_suppression(members, size, labels, dtype)
        check_equal(ours(found, conf_type), theirs(found, conf_type))
        ways = {"peer": partial(theirs, found, conf_type), "own": partial(ours, found, conf_type)}
        peer, own = side_by_side(ways, "peer", rounds=11, seconds=0.1)
        rounds = [a / b for a, b in zip(peer.milliseconds, own.milliseconds, strict=True)]
        print(
            f"| {members} x {size} | {labels} | {np.dtype(dtype).name} | {conf_type} | {peer.median:.3g} | "
            f"{own.median:.3g} | {own.ratio:.0f} | {min(rounds):.0f} to {max(rounds):.0f} |",
            flush=True,
        )


def batch(images: int = 32, members: int = 2, size: int = 400) -> None:
    """Prints the time of a batch, image by image and at once."""
    found = [after_suppression(members, size, "80 classes", seed=seed) for seed in range(images)]
    boxes, scores, labels = (np.concatenate(list(chain(*column))) for column in zip(*found, strict=True))
    counts = np.array([[len(own) for own in scores] for _, scores, _ in found])
    shared = np.ones(members), np.full(members, 1e-4), 0.5, "avg"

    def at_once(threads: int) -> list[tuple[np.ndarray, ...]]:
        return fuse_images(boxes, scores, labels, counts, *shared, threads=threads)

    ways = {"image by image": lambda: [ours(image) for image in found]}
    ways |= {f"at once, {threads} threads": partial(at_once, threads) for threads in (1, 2)}
    for way in ways.values():
        for one, expected in zip(way(), ways["image by image"](), strict=True):
            for values in zip(one, expected, strict=True):
                np.testing.assert_array_equal(*values)
    print(f"\n{images} images of {members} x {size} boxes")
    for timing in side_by_side(ways, "image by image"):
        print(f"{timing.name}: {timing.median:.3g} ms, {timing.ratio:.2f} times image by image")


def main() -> None:
    """Runs both parts."""
    warnings.simplefilter("ignore")  # ensemble-boxes'
    print(describe(machine("ensemble-boxes", "numba", "numpy")) + "\n")
    one_image()
    batch()


if __name__ == "__main__":
    main()
