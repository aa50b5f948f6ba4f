"""How often a 95 % interval of ``eval-det`` holds the AP of the images that its images are drawn from.

4,000 images are simulated, and many small validation sets of them are drawn. Run as
``python -m benchmarks.interval_coverage``.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from detection.evaluation.intervals import RESAMPLES, Matched

_IMAGES = 4000
_THRESHOLDS = np.linspace(0.5, 0.95, 10)


def simulate(rng: np.random.Generator, classes: int, skills: Sequence[float]) -> list[Matched]:
    """Detections of several detectors on the same images, five objects each; ``skills`` lift scores and IoUs."""
    share = rng.dirichlet(np.ones(classes))
    image = np.repeat(np.arange(_IMAGES), rng.poisson(5, _IMAGES))
    label = rng.choice(classes, len(image), p=share)
    objects = np.zeros((classes, _IMAGES), np.int64)
    np.add.at(objects, (label, image), 1)
    hard, own = rng.normal(0, 0.5, _IMAGES)[image], rng.normal(0, 0.7, len(image))  # of the image, of the object
    detectors = []
    for skill in skills:
        found = rng.random(len(image)) < 0.85
        iou = rng.normal(0.7 + 0.05 * skill - 0.1 * hard, 0.15)
        wrong = np.repeat(np.arange(_IMAGES), rng.poisson(10, _IMAGES))
        images = np.concatenate([image[found], wrong])
        labels = np.concatenate([label[found], rng.choice(classes, len(wrong), p=share)])
        scores = np.concatenate([rng.normal(skill - hard + own, 0.7)[found], rng.normal(0, 1, len(wrong))])
        right = np.concatenate([iou[found, None] >= _THRESHOLDS, np.zeros((len(wrong), 10), bool)])
        order = np.lexsort((-scores, labels))
        ends = np.searchsorted(labels[order], np.arange(classes), side="right")
        counted = np.ones((10, len(order)), bool)
        detectors.append(Matched(images[order], scores[order], ends, right[order].T.copy(), counted, objects))
    return detectors


def means(aps: np.ndarray) -> np.ndarray:
    """AP of each draw: over classes with objects and thresholds."""
    return np.nanmean(aps.mean(2), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=100, help="validation sets of each kind")
    sets = parser.parse_args().sets
    rng = np.random.default_rng(0)
    print("classes  images  AP of all   of a set   held by: percentiles  basic    of a difference: percentiles  basic")
    for classes, size in ((1, 100), (3, 100), (20, 100), (20, 500), (80, 500)):
        weak, strong = simulate(rng, classes, (1.3, 1.6))
        everything = np.ones((1, _IMAGES), np.int64)
        truth = [own.aps(everything) for own in (strong, weak)]
        expected = means(truth[0])[0], means(truth[0] - truth[1])[0]
        held, values = np.zeros((2, 2)), []
        for _ in range(sets):
            chosen = rng.choice(_IMAGES, size, replace=False)
            draws = np.zeros((1 + RESAMPLES, _IMAGES), np.int64)
            draws[0, chosen] = 1
            for draw in draws[1:]:
                np.add.at(draw, rng.choice(chosen, size), 1)
            aps = [own.aps(draws) for own in (strong, weak)]
            for row, (found, true) in enumerate(zip((means(aps[0]), means(aps[0] - aps[1])), expected, strict=True)):
                low, high = np.quantile(found[1:], (0.025, 0.975))
                held[row] += low <= true <= high, 2 * found[0] - high <= true <= 2 * found[0] - low
            values.append(means(aps[0])[0])
        shares = "   ".join(f"{share:10.0%}" for share in (held / sets).ravel())
        print(f"{classes:7}  {size:6}  {expected[0]:9.3f}  {np.mean(values):9.3f}   {shares}", flush=True)


if __name__ == "__main__":
    main()
