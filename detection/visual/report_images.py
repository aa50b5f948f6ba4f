"""What was missed, and the best and worst images, for a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from detection.data.annotations import CocoAnnotations
from detection.visual.html import bar, columns, key, paragraph, pictures, section, table, text
from detection.visual.outcomes import KEY, MISSED, Found, Pictures, first_drawn
from divdet.engine.words import counted

_BEST, _WORST, _MISSED = 4, 6, 12  # pictures


def missed(annotations: CocoAnnotations, fused: Found, sizes: tuple[float, float], shown: Pictures) -> str:
    """Objects that no box found, by size, and some of them."""
    truth = annotations.truth
    objects = ~truth.crowd
    if not objects.any():
        return section("Missed objects", paragraph("The ground truth has no object."))
    lost = objects & ~fused.outcome.found
    small, large = (side**2 for side in sizes)
    by_area = [
        (f"small, below {sizes[0]:g}²", objects & (truth.area < small)),
        (f"medium, below {sizes[1]:g}²", objects & (truth.area >= small) & (truth.area < large)),
        ("large", objects & (truth.area >= large)),
    ]
    power = np.floor(np.log2(np.maximum(truth.bbox[:, 2:].prod(1), 1)) / 2).astype(int)
    steps = np.unique(power[objects]).tolist()
    by_side = [(f"{2**step}-{2 ** (step + 1)}", objects & (power == step)) for step in steps]
    head, count, score = ["Size", "objects", "missed"], int(objects.sum()), fused.outcome.threshold
    drawn = first_drawn(_pictures(annotations, lost, shown), _MISSED)
    return section(
        "Missed objects",
        paragraph(f"{lost.sum():,} of {counted(count, 'object')}, at a score threshold of {score:.2f}."),
        columns(
            table("By area in pixels", head, _shares(by_area, lost), "t b"),
            table("By side (square root of the box's area) in pixels", head, _shares(by_side, lost), "t b"),
        ),
        f"<h3>Some of them</h3>{pictures(drawn, 'crops')}" if drawn else "",
    )


def _pictures(annotations: CocoAnnotations, lost: np.ndarray, shown: Pictures) -> Iterator[str]:
    """Pictures of objects at random, one an image."""
    truth = annotations.truth
    rows = np.random.default_rng(0).permutation(np.flatnonzero(lost))
    _, first = np.unique(truth.image[rows], return_index=True)
    for row in rows[np.sort(first)].tolist():
        index, (width, height) = int(truth.image[row]), truth.bbox[row, 2:]
        caption = f"{annotations.names[truth.label[row]]}, {width:.0f} × {height:.0f} px, in {shown.name(index)}"
        yield shown.crop(index, truth.bbox[row], MISSED, caption)


def _shares(groups: list[tuple[str, np.ndarray]], lost: np.ndarray) -> list[list[str]]:
    rows = []
    for name, rows_of in groups:
        total, count = int(rows_of.sum()), int((rows_of & lost).sum())
        share = count / total if total else 0.0
        rows.append([text(name), f"{total:,}", bar(f"{count:,} ({share:.0%})" if total else "–", share)])
    return rows


def images(fused: Found, shown: Pictures) -> str:
    """The images with the worst and the best F1, with ground truth."""
    f1 = fused.outcome.f1()
    known = np.flatnonzero(np.isfinite(f1))
    counts = fused.outcome.counts[known]
    worst = known[np.lexsort((-counts[:, 1:].sum(1), f1[known]))]
    best = known[np.lexsort((-counts[:, 0], -f1[known]))]
    parts = []
    for title, order, most, wanted in (
        ("Worst images", worst, _WORST, f1 < 1),
        ("Best images", best, _BEST, f1 > 0),
    ):
        indices = order[wanted[order]].tolist()
        drawn = first_drawn(
            (shown.panels(index, [fused], f"{shown.name(index)}: F1 {f1[index]:.2f}") for index in indices), most
        )
        parts.append(f"<h3>{title}</h3>{pictures(drawn, 'wide')}" if drawn else "")
    return section("Images", key(KEY), *parts) if any(parts) else ""
