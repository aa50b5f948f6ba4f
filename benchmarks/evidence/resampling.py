"""How much of a detector's AP hangs on which images it is evaluated on: the bootstrap over images."""

from dataclasses import replace

import numpy as np

from detection.data.annotations import CocoAnnotations, Columns
from detection.data.coco_results import Results
from detection.evaluation.coco_metrics import evaluate

RESAMPLES = 400


def resampled_ap(annotations: CocoAnnotations, results: Results) -> list[float]:
    """AP on as many images drawn with replacement, 400 times; the same draws for every detector of the same data.

    Two detectors are compared by the differences of the same draws: many images are hard or easy for both.
    """
    count, truth = len(annotations.images), annotations.truth
    of_truth, of_results = _rows(truth.image, count), _rows(results.image, count)
    numbers = []
    for drawn in np.random.default_rng(0).integers(count, size=(RESAMPLES, count)):
        images = [replace(annotations.images[old], id=new) for new, old in enumerate(drawn)]
        rows, at = _drawn(of_truth, drawn)
        columns = Columns(at, *(getattr(truth, name)[rows] for name in ("label", "bbox", "area", "crowd")))
        found, at = _drawn(of_results, drawn)
        again = Results(at, *(getattr(results, name)[found] for name in ("label", "bbox", "score")))
        numbers.append(round(evaluate(replace(annotations, images=images, truth=columns), again)["AP"], 5))
    return numbers


def _rows(image: np.ndarray, count: int) -> list[np.ndarray]:
    """The rows of each image."""
    order = np.argsort(image, kind="stable")
    return np.split(order, np.searchsorted(image[order], np.arange(1, count)))


def _drawn(of_image: list[np.ndarray], drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the drawn images, and the place of each in the drawing."""
    parts = [of_image[old] for old in drawn]
    return np.concatenate(parts), np.repeat(np.arange(len(drawn)), [len(part) for part in parts])
