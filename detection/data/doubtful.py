"""What ground truth and results may hold that is hardly meant: counted and said, since it may be right."""

from __future__ import annotations

from collections import Counter

import numpy as np

from detection.data.annotations import Columns

_TINY = 1e-3  # of its box: no object's outline is so thin
_ROUNDING = 2.0  # pixels that a tool may add to the sides of a box


def doubtful(truth: Columns) -> Counter[str]:
    """Boxes that are there twice, and areas that cannot be, for ``CocoAnnotations.counts``."""
    return +Counter(
        {
            "boxes that repeat another of their image and class (each counts as an object to be found)": count_repeats(
                truth.image, truth.label, truth.bbox
            ),
            "areas that are larger than the box, almost zero or all alike (APs, APm and APl go by them)": _odd_areas(
                truth
            ),
        }
    )


def count_repeats(*columns: np.ndarray) -> int:
    """How many of n rows, given as columns [n] or [n, k], have been there before."""
    table = np.column_stack(columns)
    table = table[np.lexsort(table.T)]
    return int((table[1:] == table[:-1]).all(axis=1).sum())


def _odd_areas(truth: Columns) -> int:
    sides = truth.bbox[:, 2:]
    sized = (sides > 0).all(axis=1)
    area, box, most = truth.area[sized], sides[sized].prod(axis=1), (sides[sized] + _ROUNDING).prod(axis=1)
    if len(area) and (area == area[0]).all() and box.max() > 2 * box.min():
        return len(area)
    return int(((area > most) | (area < _TINY * box)).sum())
