"""How sure a difference in AP is: the images are drawn again, with replacement, many times."""

from typing import NamedTuple

import numpy as np

from detection.data.annotations import CocoAnnotations
from detection.data.coco_results import Results
from detection.evaluation.coco_metrics import _dense

RESAMPLES = 300


class Interval(NamedTuple):
    """A difference in AP and its 95 % interval over images."""

    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.difference:+.3f} ({self.low:+.3f} … {self.high:+.3f})"


def ap_difference(annotations: CocoAnnotations, first: Results | None, second: Results, seed: int = 0) -> Interval:
    """AP of ``second`` less that of ``first``, on the same images; without ``first``, the AP itself."""
    from hotcoco import COCO, COCOeval, compare

    nothing = Results(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
    evaluations = []
    for results in (first or nothing, second):
        images, categories, (image_ids, category_ids, boxes, area, crowd), rows = _dense(annotations, results)
        truth = COCO.from_arrays(images, categories, image_ids, category_ids, boxes, area=area, iscrowd=crowd)
        evaluation = COCOeval(truth, truth.load_res(rows), "bbox")
        settings = evaluation.params
        settings.area_rng, settings.area_rng_lbl, settings.max_dets = [[0, 1e10]], ["all"], [100]  # a tenth of the time
        evaluation.params = settings
        evaluation.evaluate()
        evaluations.append(evaluation)
    found = compare(*evaluations, n_bootstrap=RESAMPLES, seed=seed)
    return Interval(found["deltas"]["AP"], found["ci"]["AP"]["lower"], found["ci"]["AP"]["upper"])
