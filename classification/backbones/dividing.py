"""The dividing rules of the paper (Sec. III-A and appendix): what one of S members keeps of the large network.

Every function takes the large network's value and S, and returns a member's value. S = 1 changes nothing.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from divdet.engine.errors import UserError

WeightDecayDividing = Literal["none", "exponential", "linear"]


MOST_MEMBERS = 1024


def check_members(members: int) -> None:
    """Raises UserError unless S is a whole number of 1 to 1024."""
    if not isinstance(members, int) or isinstance(members, bool) or not 1 <= members <= MOST_MEMBERS:
        raise UserError(f"members must be a whole number of 1 to {MOST_MEMBERS}, not {members!r}")


def divide_width(width: int, members: int) -> int:
    """Channels C/√S (Eq. 4), rounded to the nearest even number, upwards on a tie.

    The greatest common divisor of a family's widths (for ResNet, the stem's) goes through this rule and all other
    widths are its multiples. 16 gives the appendix's 12 at S=2 and 8 at S=4.

    Raises UserError where no channel is left.
    """
    check_members(members)
    if members == 1:
        return width
    divided = 2 * math.floor(width / math.sqrt(members) / 2 + 0.5)
    if divided == 0:
        raise UserError(f"a width of {width} channels cannot be divided into {members} members: none would be left")
    return divided


def divide_widen_factor(factor: int, members: int) -> int:
    """Widen factor of WRN: w* = ⌊w/√S + 0.4⌋ (appendix d; the floor stands where Table II's networks have it).

    Raises UserError where w* would fall below 1, the narrowest WRN.
    """
    check_members(members)
    divided = math.floor(factor / math.sqrt(members) + 0.4)
    if divided < 1:
        raise UserError(f"a widen factor of {factor} cannot be divided into {members} members: it would fall below 1")
    return divided


def divide_growth_rate(growth: int, members: int) -> int:
    """Growth rate of DenseNet: the even number at or below g/√S (appendix g, which prints ½·⌊2·g/√S⌋; both give the
    28 and 20 of its networks).

    Raises UserError where no channel is left.
    """
    check_members(members)
    divided = 2 * math.floor(growth / math.sqrt(members) / 2)
    if divided == 0:
        raise UserError(f"a growth rate of {growth} cannot be divided into {members} members: none would be left")
    return divided


def divide_added_channels(added: float, members: int) -> float:
    """Channels that PyramidNet adds over its depth: α/√S (appendix h)."""
    check_members(members)
    return added / math.sqrt(members)


def divide_to_multiple(width: int, members: int, divisor: int) -> int:
    """Channels C/√S (Eq. 4), rounded to the nearest multiple of ``divisor``, at least one."""
    check_members(members)
    return max(divisor, divisor * math.floor(width / math.sqrt(members) / divisor + 0.5))


def divide_cardinality(groups: int, members: int) -> int:
    """Groups of ResNeXt: d* = ⌊d/S⌋ with the channels per group kept (Eq. 5, appendix e).

    Raises UserError where no group is left.
    """
    check_members(members)
    if members > groups:
        raise UserError(f"{groups} groups cannot be divided into {members} members: S may be at most {groups}")
    return groups // members


def divide_drop_probability(probability: float, members: int) -> float:
    """Drop probability p/√S of dropout and its kin (Sec. III-A b). Raises UserError unless 0 ≤ p < 1."""
    check_members(members)
    if not 0 <= probability < 1:
        raise UserError(f"a drop probability must be at least 0 and below 1, not {probability}")
    return probability / math.sqrt(members)


def divide_weight_decay(weight_decay: float, members: int, how: WeightDecayDividing = "none") -> float:
    """Weight decay of S members: unchanged (``none``), wd·exp(1/S - 1) (``exponential``, Eq. 6), or wd/S (``linear``,
    the third manner that Table V tests). Raises UserError for any other ``how``.
    """
    check_members(members)
    match how:
        case "none":
            return weight_decay
        case "exponential":
            return weight_decay * math.exp(1 / members - 1)
        case "linear":
            return weight_decay / members
    raise UserError(f"weight decay is divided by one of {', '.join(get_args(WeightDecayDividing))}, not {how!r}")
