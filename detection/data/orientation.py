"""The pixel layout in which annotated images are read: as stored, or upright by their EXIF orientation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from detection.settings import Orientation
from divdet.engine.exif import read_turned

if TYPE_CHECKING:
    from detection.data.annotations import Columns, ImageRecord

SETTLED = "images with EXIF rotation read {}, as annotated sizes or boxes of such images show"
OPEN = (
    "images with EXIF rotation read upright: neither sizes nor boxes show how they were annotated "
    "(if as stored, set data.orientation stored)"
)
_SLACK = 1.0  # pixels by which a box may pass the border, from rounding


def set_layouts(images: Sequence[ImageRecord], truth: Columns, orientation: Orientation) -> Counter[str]:
    """Decide how images with an EXIF rotation are read: sets their ``upright``, and ``width`` and ``height`` to match.

    ``auto`` reads an image upright whose annotated size fits only the upright layout. Other sizes do not decide: both
    layouts may have the same size, and some tools write the stored size with upright boxes (Label Studio, issue 6608).
    But one tool treats all images alike, so all rotated images vote: a size or boxes that fit only the upright layout
    for upright, boxes that fit only the stored one for stored. A draw means upright, as annotation tools and
    ``predict`` show photos.

    ``upright`` and ``stored`` apply to all images.

    Returns:
        Counts of the images that their size did not decide, for ``CocoAnnotations.counts``; empty unless ``auto``.
    """
    turned = [(position, header) for position, image in enumerate(images) if (header := read_turned(image.path))]
    if not turned:
        return Counter()
    ends = np.zeros((len(images), 2))  # the right and lower end of each image's boxes
    np.maximum.at(ends, truth.image, truth.bbox[:, :2] + truth.bbox[:, 2:])
    votes, undecided = 0, 0  # positive: upright
    for position, (code, *stored) in turned:
        image, upright = images[position], _upright(code, stored)
        image.upright = [image.width, image.height] == upright != stored
        undecided += not image.upright
        fits_upright, fits_stored = (int((ends[position] <= np.add(size, _SLACK)).all()) for size in (upright, stored))
        votes += 1 if image.upright else fits_upright - fits_stored
    for position, (code, *stored) in turned:
        image, upright = images[position], _upright(code, stored)
        image.upright = orientation == "upright" or (orientation == "auto" and (image.upright or votes >= 0))
        if not (image.width and image.height) or [image.width, image.height] in (stored, upright):
            image.width, image.height = upright if image.upright else stored
    if orientation != "auto":
        return Counter()
    return +Counter({SETTLED.format("upright" if votes > 0 else "as stored") if votes else OPEN: undecided})


def _upright(code: int, stored: list[int]) -> list[int]:
    return stored[::-1] if code >= 5 else stored
