"""Boxes around COCO's masks by run lengths, read here because pycocotools crashes on damaged ones."""

from __future__ import annotations

from itertools import accumulate


def box_around_runs(runs: list[int], height: int) -> list[float]:
    """The box [x, y, width, height] around a mask; zeros for an empty one.

    Args:
        runs: lengths of alternating runs outside and inside the mask, column by column.
        height: of the image.
    """
    ends = [0, *accumulate(runs)]
    inside = [(start, end - 1) for start, end in zip(ends[1::2], ends[2::2], strict=False) if end > start]
    if not inside:
        return [0.0] * 4
    left, right = inside[0][0] // height, inside[-1][1] // height
    top, bottom = height, 0
    for first, last in inside:
        whole = first // height < last // height  # the run goes on in the next column
        top = min(top, 0 if whole else first % height)
        bottom = max(bottom, height - 1 if whole else last % height)
    return [float(side) for side in (left, top, right - left + 1, bottom - top + 1)]


def unpack_runs(packed: str) -> list[int]:
    """Run lengths from COCO's text: six bits a letter; from the fourth on, what is added to the last but one.

    Raises:
        ValueError: for other text.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in packed:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{letter!r} is no letter of run lengths")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:  # the last of this number, whose highest bit is its sign
            value -= (1 << shift) if bits & 0x10 else 0
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError("the text ends within a number")
    return runs
