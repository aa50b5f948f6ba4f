"""The page of an evaluation: what a detector finds, what it misses, what its members are worth."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations import CocoAnnotations
from detection.data.coco_results import Results
from detection.evaluation.matches import IOU, agreement, match, outcome
from detection.visual.html import (
    bar,
    bullets,
    cards,
    columns,
    counted,
    facts,
    key,
    page,
    paragraph,
    pictures,
    section,
    table,
    text,
)
from detection.visual.outcomes import KEY, MISSED, Found, Pictures
from detection.visual.report_members import fraction, members
from detection.visual.report_training import training
from divdet.engine.files import write_text
from divdet.engine.machine import machine

_BEST, _WORST, _MISSED = 4, 6, 12  # pictures
_UNREAD = 5  # files that are named
_SIZES = {"small, below 32²": 32.0**2, "medium, below 96²": 96.0**2, "large": np.inf}  # pixels of area


@dataclass
class Report:
    """What a report is made of.

    Attributes:
        annotations: the ground truth.
        metrics: as ``eval_det.py`` writes them.
        fused: the final boxes.
        members: of each member; empty for a results file.
        about: what was evaluated, by what it is called.
        history: lines of metrics.jsonl; empty where there are none.
    """

    annotations: CocoAnnotations
    metrics: dict[str, Any]
    fused: Results
    members: Sequence[Results] = ()
    about: Mapping[str, object] = field(default_factory=dict)
    history: Sequence[dict[str, Any]] = ()


def write_report(report: Report, path: Path) -> None:
    """Writes the page; raises UserError where it cannot be written."""
    write_text(_page(report), path)


def _page(report: Report) -> str:
    annotations = report.annotations
    fused = _found("fused" if len(report.members) > 1 else "detector", annotations, report.fused)
    own = [_found(f"member {n + 1}", annotations, one) for n, one in enumerate(report.members)]
    own = own if len(own) > 1 else []
    shown = Pictures(annotations)
    shared = agreement(
        annotations,
        [one.results for one in own],
        [one.matches for one in own],
        [one.outcome for one in own],
        fused.outcome,
    )
    parts = [
        _summary(report, fused),
        training(report.history),
        members(annotations.names, report.metrics, fused, own, shared, shown),
        _missed(annotations, fused, shown),
        _images(fused, shown),
    ]
    if shown.unread:
        files = [f"{name}: {why}" for name, why in list(shown.unread.items())[:_UNREAD]]
        told = f"{counted(len(shown.unread), 'image')} could not be read, and others are shown instead."
        parts.append(section("Images that could not be read", paragraph(told, "bad"), bullets(files)))
    return page("What the detector does", parts)


def _found(name: str, annotations: CocoAnnotations, results: Results) -> Found:
    matches = match(annotations, results)
    return Found(name, results, matches, outcome(annotations, results, matches))


def _summary(report: Report, fused: Found) -> str:
    annotations, metrics = report.annotations, report.metrics
    counts = fused.outcome.counts.sum(0)
    found, missed, false = counts.tolist()
    values = [
        ("AP", fraction(metrics["AP"])),
        ("AP50", fraction(metrics["AP50"])),
        ("images", f"{len(annotations.images):,}"),
        ("objects", f"{found + missed:,}"),
        ("classes", f"{len(annotations.names):,}"),
        ("found", _percent(found, found + missed)),
        ("boxes right", _percent(found, found + false)),
    ]
    told = f"Found, and boxes right: at a score from {fused.outcome.threshold:.2f}, where F1 is best, and IoU {IOU}."
    versions = {name: value for name, value in machine("numpy", "hotcoco").items() if value}
    hardware = [str(versions.pop(name)) for name in ("gpu", "cpu") if name in versions]
    hardware.append(counted(versions.pop("cores"), "core"))
    listed = {
        **report.about,
        "Data": annotations.path,
        "Command": shlex.join(sys.argv),
        "Made": time.strftime("%Y-%m-%d %H:%M"),
        "Hardware": ", ".join(hardware),
        "Versions": ", ".join(f"{name} {value}" for name, value in versions.items()),
    }
    return cards(values) + paragraph(told, "faint") + facts(listed.items())


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"


def _missed(annotations: CocoAnnotations, fused: Found, shown: Pictures) -> str:
    truth = annotations.truth
    objects = ~truth.crowd
    if not objects.any():
        return section("Missed objects", paragraph("The ground truth has no object."))
    missed = objects & ~fused.outcome.found
    low, by_area = 0.0, []
    for name, high in _SIZES.items():
        by_area.append((name, objects & (truth.area >= low) & (truth.area < high)))
        low = high
    power = np.floor(np.log2(np.maximum(truth.bbox[:, 2:].prod(1), 1)) / 2).astype(int)
    steps = np.unique(power[objects]).tolist()
    by_side = [(f"{2**step}-{2 ** (step + 1)}", objects & (power == step)) for step in steps]
    head, count, score = ["Size", "objects", "missed"], int(objects.sum()), fused.outcome.threshold
    drawn = _some(annotations, missed, shown)
    return section(
        "Missed objects",
        paragraph(f"{counted(int(missed.sum()), 'object')} of {count:,}, at a score from {score:.2f}."),
        columns(
            table("By area in pixels, as COCO counts sizes", head, _shares(by_area, missed), "t b"),
            table("By side (square root of the box's area) in pixels", head, _shares(by_side, missed), "t b"),
        ),
        f"<h3>Some of them</h3>{pictures(drawn, 'crops')}" if drawn else "",
    )


def _some(annotations: CocoAnnotations, missed: np.ndarray, shown: Pictures) -> list[str]:
    """Pictures of objects drawn at random, one an image."""
    truth = annotations.truth
    rows = np.random.default_rng(0).permutation(np.flatnonzero(missed))
    _, first = np.unique(truth.image[rows], return_index=True)
    drawn: list[str] = []
    for row in rows[np.sort(first)].tolist():
        if len(drawn) == _MISSED or shown.gave_up:
            break
        index, (width, height) = int(truth.image[row]), truth.bbox[row, 2:]
        caption = f"{annotations.names[truth.label[row]]}, {width:.0f} × {height:.0f} px, in {shown.name(index)}"
        picture = shown.crop(index, truth.bbox[row], MISSED, caption)
        drawn += [picture] if picture else []
    return drawn


def _shares(groups: list[tuple[str, np.ndarray]], missed: np.ndarray) -> list[list[str]]:
    rows = []
    for name, rows_of in groups:
        total, lost = int(rows_of.sum()), int((rows_of & missed).sum())
        share = lost / total if total else 0.0
        rows.append([text(name), f"{total:,}", bar(f"{lost:,} ({share:.0%})" if total else "–", share)])
    return rows


def _images(fused: Found, shown: Pictures) -> str:
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
        drawn: list[str] = []
        for index in order[wanted[order]].tolist():
            if len(drawn) == most or shown.gave_up:
                break
            picture = shown.panels(index, [fused], f"{shown.name(index)}: F1 {f1[index]:.2f}")
            drawn += [picture] if picture else []
        parts.append(f"<h3>{title}</h3>{pictures(drawn, 'wide')}" if drawn else "")
    return section("Images", key(KEY), *parts) if any(parts) else ""
