"""Whether the coordinates of VOC files count from 1, as Pascal VOC's own, or from 0: told by all files together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detection.data.formats.voc_xml import VocFile, VocObject

_FRACTIONAL = 0.1  # share of the boxes: Pascal VOC's own have a few, tools that count from 0 have most
_BEFORE_1 = 0.1  # share of the boxes that start at the border, at 1 or before: fewer are slips


def told_origin(files: Sequence[VocFile]) -> tuple[int, str]:
    """Decides by a vote.

    1 where most files say that they are Pascal VOC's own. Else 0 where boxes start before 1, or a tenth of them have a
    decimal point: CVAT writes all with one, Label Studio cuts them off, but has 0 at the border. Else 1.

    Returns:
        0 or 1; and why, with a file that shows it, as the end of a sentence.
    """
    own = [file.path for file in files if file.pascal]
    if 2 * len(own) > len(files):
        return 1, f"as Pascal VOC's own ({len(own)} of {len(files)} files name its database, such as {own[0]})"
    boxes = [(file.path, found) for file in files for found in file.objects]
    starts = [(path, found) for path, found in boxes if min(found.corners[:2]) <= 1]
    before = [path for path, found in starts if min(found.corners[:2]) < 1]
    fractional = [path for path, found in boxes if _is_fractional(found)]
    other = "data.voc_origin {} takes the other"
    if before and len(before) >= _BEFORE_1 * len(starts):
        return 0, f"since {_some(before, boxes)} start before 1; {other.format(1)}"
    if fractional and len(fractional) >= _FRACTIONAL * len(boxes):
        return 0, f"since {_some(fractional, boxes)} have a decimal point; {other.format(1)}"
    few = [f"only {_some(before, boxes)} start before 1"] if before else []
    few += [f"only {_some(fractional, boxes)} have a decimal point"] if fractional else []
    return 1, f"since {' and '.join(few) or 'none is below 1 or has a decimal point'}; {other.format(0)}"


def _is_fractional(found: VocObject) -> bool:
    """Whether a coordinate is written with a decimal point: 20.0, too."""
    return any(number.as_tuple().exponent < 0 for number in found.corners)


def _some(paths: Sequence[Path], boxes: Sequence[tuple[Path, VocObject]]) -> str:
    return f"{len(paths)} of {len(boxes)} (in {paths[0]})"
