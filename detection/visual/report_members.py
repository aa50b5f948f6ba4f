"""Members against fusion: numbers, agreement, and the images that fusion changed most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detection.evaluation.intervals import Interval
from detection.evaluation.matches import IOU, Agreement
from detection.visual.charts import histogram
from detection.visual.html import (
    bar,
    charts,
    columns,
    folded,
    fraction,
    key,
    paragraph,
    section,
    stack,
    table,
    text,
)
from detection.visual.outcomes import KEY, Found, Pictures, first_drawn
from divdet.engine.words import counted

_NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "ARs", "ARm", "ARl")
_OPEN, _CLASSES = 12, 200  # classes that are shown, and folded
_IMAGES = 3  # that fusion helped, and as many that it hurt
_PANELS = 3  # members beside an image


def members(
    names: Sequence[str],
    metrics: dict[str, Any],
    fused: Found,
    own: Sequence[Found],
    shared: Agreement,
    gain: Interval | None,
    pictures: Pictures,
) -> str:
    """The section, for at least two members; ``gain`` is fusion's in AP over the best one."""
    best = best_member(metrics)
    told = ""
    if gain is not None:
        verb = "adds {:.3f} AP to" if gain.value >= 0 else "takes {:.3f} AP from"
        told = f"Fusion {verb.format(abs(gain.value))} the best member, number {best + 1}"
        told += f" (95 % interval over images {gain.low:+.3f} to {gain.high:+.3f})."
    rows = [[text("fused"), *(_cell(metrics, name, 0) for name in _NUMBERS)]]
    rows += [
        [text(f"member {number + 1}"), *(_cell(line, name, 1) for name in _NUMBERS)]
        for number, line in enumerate(metrics["members"])
    ]
    caption = "AP and AR, all sizes and small, medium, large objects"
    return section(
        "Members against fusion",
        paragraph(told) if told else "",
        table(caption, ["", *_NUMBERS], rows, "t" + "b" * len(_NUMBERS)),
        _by_class(names, fused, own),
        _agreement(shared, own, fused),
        _changed(fused, own, best, pictures),
    )


def best_member(metrics: dict[str, Any]) -> int:
    """The member of the highest AP, from 0."""
    aps = [line["AP"] for line in metrics["members"]]
    return aps.index(max(aps))


def _cell(line: dict[str, Any], name: str, second: int) -> str:
    return bar(fraction(line[name]), line[name], bool(second))


def _by_class(names: Sequence[str], fused: Found, own: Sequence[Found]) -> str:
    scored = np.stack([one.matches.by_class for one in (fused, *own)])  # [1 + S, C, 2]
    order = [label for label in np.argsort(-np.nan_to_num(scored[0, :, 0], nan=-1)) if scored[0, label, 0] >= 0]
    if len(names) < 2 or not order:
        return ""
    head = ["Class", "AP fused", *(f"member {n + 1}" for n in range(len(own)))]
    head += ["AR fused", *(f"member {n + 1}" for n in range(len(own)))]
    rows = []
    for label in order[:_CLASSES]:
        cells = [
            bar(fraction(value), value, place > 0)
            for number in (0, 1)
            for place, value in enumerate(scored[:, label, number])
        ]
        rows.append([text(names[label]), *cells])
    styles = "t" + "b" * (len(head) - 1)
    first = table("By class, highest AP first", head, rows[:_OPEN], styles)
    more = counted(len(order) - _OPEN, "more class", "more classes")
    return first + (folded(more, table("Further classes", head, rows[_OPEN:], styles)) if len(order) > _OPEN else "")


def _agreement(shared: Agreement, own: Sequence[Found], fused: Found) -> str:
    total, size = int(shared.found.sum()), len(own)
    if not total:
        return ""
    words = {0: "no member", size: "both members" if size == 2 else f"all {size} members"}
    words |= {n: f"{n} of {size} members" if n > 1 else "one member only" for n in range(1, size)}
    rows = []
    for votes in range(size, -1, -1):
        count, kept = int(shared.found[votes]), int(shared.fused[votes])
        share = f"{kept / count:.0%}" if count else "–"
        rows.append([text(words[votes]), bar(f"{count:,} ({count / total:.0%})", count / total), f"{kept:,} ({share})"])
    thresholds = ", ".join(f"{one.name} from {one.outcome.threshold:.2f}" for one in own)
    told = (
        f"An object counts as found where a box of its class covers it with an IoU of at least {IOU}, each detector at "
        f"the score of its best F1: fused from {fused.outcome.threshold:.2f}, {thresholds}."
    )
    found = table("Who finds the objects", ["Found by", "objects", "of them in the fused boxes"], rows, "tb")
    if not len(shared.ious):
        return paragraph(told) + found
    caption = f"Median {np.median(shared.ious):.2f}. Boxes that differ are what fusion averages."
    axes = ("IoU of two members' boxes", "objects")
    chart = histogram("Boxes of the same object", shared.ious, axes, np.linspace(0, 1, 21), caption)
    return paragraph(told) + columns(found, charts([chart]))


def _changed(fused: Found, own: Sequence[Found], best: int, pictures: Pictures) -> str:
    saved = own[best].outcome.errors() - fused.outcome.errors()
    kept = sorted({best, *range(min(len(own), _PANELS))}, key=lambda member: (member != best, member))[:_PANELS]
    shown = [*(own[member] for member in sorted(kept)), fused]
    parts = []
    for sign, title in ((1, "Where fusion helped most"), (-1, "Where fusion hurt most")):
        count = int((sign * saved > 0).sum())
        captions = {
            index: f"{pictures.name(index)}: {counted(abs(int(saved[index])), 'error')} "
            f"{'fewer' if sign > 0 else 'more'} than {own[best].name}"
            for index in np.argsort(-sign * saved, kind="stable")[:count].tolist()
        }
        drawn = first_drawn((pictures.panels(index, shown, caption) for index, caption in captions.items()), _IMAGES)
        told = (
            f"{counted(count, 'image')} of {len(saved):,}, by objects missed and false boxes against {own[best].name}."
        )
        parts.append(f"<h3>{text(title)}</h3>{paragraph(told)}{stack(drawn)}")
    return key(KEY) + "".join(parts)
