"""One file that a data set lists as several images, each with part of its boxes or all, as merged exports do."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from detection.data.annotations import CocoAnnotations, Columns, ImageRecord, fill_records
from detection.data.entry_values import show

_APART = "each scored against its own boxes, as COCO does: merge them for sound numbers"
_AS_ONE = "taken as one image with the boxes of all"


def count_repeated(images: list[ImageRecord]) -> Counter[str]:
    """How many files several images name, for ``CocoAnnotations.counts``."""
    return _note(images, _groups(images), _APART)


def merge_repeated(annotations: CocoAnnotations) -> CocoAnnotations:
    """Make one image of those that name the same file, as training needs it: an object of one is background in another.

    Returns:
        The same object if there are none, else a copy: the first image of each file has the boxes of all, and equal
        ones once.
    """
    images, truth = annotations.images, annotations.truth
    groups = _groups(images)
    if not groups:
        return annotations
    first = np.arange(len(images))
    for group in groups:
        first[group] = group[0]
    kept = np.flatnonzero(first == np.arange(len(images)))
    image = np.searchsorted(kept, first[truth.image])
    keys = np.column_stack([image, truth.label, truth.crowd, truth.bbox])
    _, rows, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    # Equal boxes of one and the same image stay: the file has them.
    rows = np.flatnonzero(truth.image == truth.image[rows][inverse.reshape(-1)])
    columns = Columns(*(column[rows] for column in (image, *list(vars(truth).values())[1:])))
    records = [replace(images[index]) for index in kept]
    fill_records(records, columns)
    before, after = (list(_note(images, groups, what)) for what in (_APART, _AS_ONE))
    counts = Counter({(after[0] if what in before else what): count for what, count in annotations.counts.items()})
    return replace(annotations, images=records, truth=columns, counts=counts)


def _groups(images: list[ImageRecord]) -> list[list[int]]:
    """The indices of images that have the same file, where it has several."""
    groups: dict[str, list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(str(image.path), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _note(images: list[ImageRecord], groups: list[list[int]], what: str) -> Counter[str]:
    if not groups:
        return Counter()
    ids = " and ".join(str(images[index].id) for index in groups[0])
    example = f"such as {show(images[groups[0][0]].file_name)} as images {ids}"
    return Counter({f"files listed more than once, {example} ({what})": len(groups)})
