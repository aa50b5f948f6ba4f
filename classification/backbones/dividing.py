"""How the values of one of S members follow from the undivided network (paper, Sec. III-A and appendix).

The ``divide_*`` functions take one value and S. `resnet` and the functions after it give all channels of a residual
network. S = 1 changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from divdet.engine.errors import UserError
from divdet.engine.settings import check_whole

WeightDecayDividing = Literal["none", "exponential", "linear"]


def check_members(members: int) -> None:
    """Raises UserError unless S is a whole number from 1 to 1024."""
    check_whole("members", members, 1, 1024)


def divide_width(width: int, members: int, given: Mapping[int, int] | None = None) -> int:
    """Channels C/√S (Eq. 4), rounded to the nearest even number, upwards on a tie.

    The smallest width of a family (the stem's of ResNet) is divided by this rule; the other widths are its multiples.
    ``given`` (S -> channels) says where a published network departs from it.
    """
    check_members(members)
    if given and members in given:
        return given[members]
    divided = _nearest_multiple(width, members, 2) if members != 1 else width
    return _check_left(divided, f"a width of {width} channels", members)


def divide_widen_factor(factor: int, members: int) -> int:
    """Widen factor of WRN: w* = ⌊w/√S + 0.4⌋ (appendix d, with the floor where Table II's networks have it)."""
    divided = math.floor(_divide_by_root(factor, members) + 0.4)
    return _check_left(divided, f"a widen factor of {factor}", members, "it would fall below 1")


def divide_growth_rate(growth: int, members: int) -> int:
    """Growth rate of DenseNet: g/√S rounded down to an even number.

    Appendix g prints ½·⌊2·g/√S⌋. Both give the rates of its networks, 28 and 20.
    """
    divided = 2 * math.floor(_divide_by_root(growth, members) / 2)
    return _check_left(divided, f"a growth rate of {growth}", members)


def divide_added_channels(added: float, members: int) -> float:
    """Channels that PyramidNet adds over its depth: α/√S (appendix h)."""
    return _divide_by_root(added, members)


def divide_to_multiple(width: int, members: int, divisor: int) -> int:
    """Channels C/√S (Eq. 4), rounded to the nearest multiple of ``divisor``, at least one."""
    return max(divisor, _nearest_multiple(width, members, divisor))


def divide_cardinality(groups: int, members: int) -> int:
    """Groups of ResNeXt: d* = ⌊d/S⌋, of as many channels as before (Eq. 5, appendix e)."""
    check_members(members)
    return _check_left(groups // members, f"{groups} groups", members, f"S may be at most {groups}")


def divide_drop_probability(probability: float, members: int) -> float:
    """Drop probability p/√S of dropout, stochastic depth and ShakeDrop (Sec. III-A b), for 0 ≤ p < 1."""
    if not 0 <= probability < 1:
        raise UserError(f"a drop probability must be at least 0 and below 1, not {probability}")
    return _divide_by_root(probability, members)


def divide_weight_decay(weight_decay: float, members: int, how: WeightDecayDividing = "none") -> float:
    """Weight decay of S members (Table V): unchanged, wd·exp(1/S - 1) (``exponential``, Eq. 6) or wd/S (``linear``)."""
    check_members(members)
    match how:
        case "none":
            return weight_decay
        case "exponential":
            return weight_decay * math.exp(1 / members - 1)
        case "linear":
            return weight_decay / members
    raise UserError(f"weight decay is divided by one of {', '.join(get_args(WeightDecayDividing))}, not {how!r}")


def _divide_by_root(value: float, members: int) -> float:
    check_members(members)
    return value / math.sqrt(members)


def _nearest_multiple(width: int, members: int, divisor: int) -> int:
    return divisor * math.floor(_divide_by_root(width, members) / divisor + 0.5)


def _check_left(divided: int, what: str, members: int, why: str = "none would be left") -> int:
    """``divided``; raises UserError where it is below 1."""
    if divided < 1:
        raise UserError(f"{what} cannot be divided into {members} members: {why}")
    return divided


@dataclass(frozen=True)
class Widths:
    """Channels of a residual network. ``inner`` and ``out`` are the first stage's and double in each further one."""

    stem: int
    inner: int  # of the 3x3 convolutions
    out: int  # of the blocks
    groups: int = 1  # of the 3x3 convolutions
    stem_out: int | None = None  # of the ImageNet stem's last convolution; None for twice ``stem``


def resnet(
    width: int, expansion: int, members: int, given: Mapping[int, int] | None = None, widen_stem: bool = True
) -> Widths:
    """Divides the stem's width, of which all others are multiples (appendix a); ``given`` as in `divide_width`."""
    w = divide_width(width, members, given)
    return Widths(stem=w, inner=w, out=w * expansion, stem_out=None if widen_stem else w)


def small_resnet(width: int, members: int) -> Widths:
    """Basic blocks behind a stem of half the width. A whole one would take half of a small network's operations."""
    w = divide_width(width, members)
    return Widths(stem=divide_width(width // 2, members), inner=w, out=w)


def wrn(factor: int, members: int) -> Widths:
    """Basic blocks in stages of 16·w*, 32·w* and 64·w* channels behind a stem of 16 (appendix d)."""
    w = 16 * divide_widen_factor(factor, members)
    return Widths(stem=16, inner=w, out=w)


def wrn_bottleneck(factor: int, members: int) -> Widths:
    """Bottlenecks of which only the inner widths, 64·w* in the first stage, are widened and divided (appendix d)."""
    return Widths(stem=64, inner=64 * divide_widen_factor(factor, members), out=256)


def resnext(groups: int, per_group: int, members: int, stem_out: int | None = None) -> Widths:
    """Divides the groups; the channels per group (of the first stage) and the outputs stay (appendix e)."""
    groups = divide_cardinality(groups, members)
    return Widths(stem=64, inner=groups * per_group, out=256, groups=groups, stem_out=stem_out)
