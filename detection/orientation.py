"""In which pixel layout annotated images are read: as stored, or upright by their EXIF orientation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from engine.exif import read_turned

if TYPE_CHECKING:
    from detection.annotations import Columns, ImageRecord

Orientation = Literal["auto", "upright", "stored"]

SETTLED = "images turned by EXIF, read {} as sizes or boxes of such images tell"
OPEN = (
    "images turned by EXIF, read upright: neither sizes nor boxes tell how they were annotated "
    "(if as stored, set data.orientation stored)"
)
_SLACK = 1.0  # pixels that a box may pass the border, by rounding


def set_layouts(images: Sequence[ImageRecord], truth: Columns, orientation: Orientation) -> Counter[str]:
    """Sets ``upright``, and ``width`` and ``height`` of that layout, of the images that their EXIF orientation turns.

    ``auto``: an image whose given size is the upright one's alone is read upright. No other size decides: photos that
    are turned by 180 degrees, mirrored or square have one size in both layouts, and some tools write the stored size
    with upright boxes (Label Studio 6608), others with stored ones (COCO). An annotation tool does it in one way, so
    the other images of the file decide together: each upright size, and each image whose boxes leave the stored layout
    but fit the upright one, speaks for upright; each whose boxes leave only the upright one, for stored. Without a
    majority they are read upright, as annotation tools show them and ``predict`` reads them.

    Args:
        images: with ``path``, ``width`` and ``height`` as given; changed in place.
        truth: their annotations.
        orientation: ``upright`` and ``stored`` hold for all images.

    Returns:
        Counts of the images that no size decided, for ``CocoAnnotations.counts``; empty unless ``auto``.
    """
    turned = [(position, header) for position, image in enumerate(images) if (header := read_turned(image.path))]
    if not turned:
        return Counter()
    ends = np.zeros((len(images), 2))  # the right and lower end of each image's boxes
    np.maximum.at(ends, truth.image, truth.bbox[:, :2] + truth.bbox[:, 2:])
    votes, undecided = 0, 0
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
