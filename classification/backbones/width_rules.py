"""How the appendix divides each family of residual networks: rules that take S and give a member's widths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from classification.backbones.dividing import divide_cardinality, divide_widen_factor, divide_width
from classification.backbones.resnet import Widths


def resnet(width: int, expansion: int, given: dict[int, int] | None = None) -> Callable[[int], Widths]:
    """Appendix a: the stem's width is divided by √S, all others are its multiples. ``given``: S -> width where the
    published network departs from the nearest even number.
    """

    def divide(members: int) -> Widths:
        w = (given or {}).get(members) or divide_width(width, members)
        return Widths(stem=w, inner=w, out=w * expansion)

    return divide


def small(width: int) -> Callable[[int], Widths]:
    """The rule of ``resnet`` for basic blocks behind a stem of half the width, where a small network would otherwise
    spend half of its computation.
    """

    def divide(members: int) -> Widths:
        w = divide_width(width, members)
        return Widths(stem=divide_width(width // 2, members), inner=w, out=w)

    return divide


def wide(factor: int) -> Callable[[int], Widths]:
    """Appendix d, basic blocks: stages of 16·w*, 32·w*, 64·w* behind a stem of 16."""

    def divide(members: int) -> Widths:
        w = 16 * divide_widen_factor(factor, members)
        return Widths(stem=16, inner=w, out=w)

    return divide


def wide_bottleneck(factor: int) -> Callable[[int], Widths]:
    """Appendix d, bottlenecks: only the inner widths, 64·w* in the first stage, are widened and divided."""
    return lambda members: Widths(stem=64, inner=64 * divide_widen_factor(factor, members), out=256)


def resnext(groups: int, per_group: int, stem_out: int | None = None) -> Callable[[int], Widths]:
    """Appendix e: the groups are divided, the channels per group (of the first stage) and the outputs stay."""

    def divide(members: int) -> Widths:
        d = divide_cardinality(groups, members)
        return Widths(stem=64, inner=d * per_group, out=256, groups=d, stem_out=stem_out)

    return divide


def se_resnet50(members: int) -> Widths:
    """ResNet-50's widths behind a stem that does not widen."""
    w = resnet(64, expansion=4, given={2: 44})(members)
    return replace(w, stem_out=w.stem)
