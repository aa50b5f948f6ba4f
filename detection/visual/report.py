"""The page of an evaluation: what a detector finds, what it misses, what its members are worth."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detection.data.annotations import CocoAnnotations
from detection.data.coco_results import Results
from detection.evaluation.advice import advice
from detection.evaluation.analysis import Analysis, analyze
from detection.evaluation.coco_metrics import COCO_RULES, Rules
from detection.evaluation.intervals import Interval, compare, interval_of
from detection.evaluation.matches import IOU, agreement, match, outcome
from detection.visual.html import bullets, cards, facts, fraction, page, paragraph, section
from detection.visual.outcomes import Found, Pictures
from detection.visual.report_images import images, missed
from detection.visual.report_members import best_member, members
from detection.visual.report_numbers import errors, numbers
from detection.visual.report_training import training
from divdet.engine.files import write_text
from divdet.engine.machine import machine
from divdet.engine.words import counted

if TYPE_CHECKING:
    from detection.evaluation.evaluate import Evaluation

_UNREAD = 5  # files that are named


@dataclass
class Report:
    """What a report is made of.

    Attributes:
        annotations: the ground truth.
        evaluation: of a detector, or of a results file, which has no members.
        rules: by which it was counted.
        threshold: a score at which precision, recall and F1 are wanted, too.
        about: what was evaluated, by what it is called.
        history: lines of metrics.jsonl; empty where there are none.
        complete: whether the history reaches the end of the training.
        images: whether it is known where the images are.
    """

    annotations: CocoAnnotations
    evaluation: Evaluation
    rules: Rules = COCO_RULES
    threshold: float | None = None
    about: Mapping[str, object] = field(default_factory=dict)
    history: Sequence[dict[str, Any]] = ()
    complete: bool = True
    images: bool = True


def write_report(report: Report, path: Path) -> None:
    """Writes the page; raises UserError where it cannot be written."""
    write_text(_page(report), path)


def _page(report: Report) -> str:
    annotations, rules, metrics = report.annotations, report.rules, report.evaluation.metrics
    several = len(report.evaluation.members) > 1
    fused = _found("fused" if several else "detector", report, report.evaluation.fused)
    own = [_found(f"member {n + 1}", report, one) for n, one in enumerate(report.evaluation.members)] if several else []
    analysis = analyze(annotations, fused.results, report.threshold, rules, fused.matches)
    interval = gain = None
    if metrics["AP"] >= 0 and len(annotations.images) > 1:  # there are objects, and images to draw from
        known = metrics.get("interval")  # of eval-det, which took a while
        interval = Interval(**known) if known else interval_of(annotations, fused.results, rules.max_dets)
        if several:
            gain = compare(annotations, own[best_member(metrics)].results, fused.results, rules.max_dets).AP
    told = report.history if report.complete else []
    lines = advice(annotations, metrics, analysis, fused.outcome, interval, gain, told, rules.sizes)
    shown = Pictures(annotations, report.images)
    columns = [[getattr(one, name) for one in own] for name in ("results", "matches", "outcome")]
    shared = agreement(annotations, *columns, fused.outcome) if several else None
    parts = [
        _summary(report, fused, analysis),
        section("What to try next", bullets(lines) or paragraph("Nothing stands out.")),
        training(report.history),
        numbers(metrics, analysis, interval, fused),
        errors(analysis, annotations.names, shown),
        members(annotations.names, metrics, fused, own, shared, gain, shown) if several else "",
        missed(annotations, fused, rules.sizes, shown),
        images(fused, shown),
    ]
    if shown.unread:
        files = [f"{name}: {why}" for name, why in list(shown.unread.items())[:_UNREAD]]
        told = f"{counted(len(shown.unread), 'image')} could not be read" + ", and no more were tried" * shown.gave_up
        parts.append(section("Images that could not be read", paragraph(f"{told}.", "bad"), bullets(files)))
    return page("Evaluation report", parts)


def _found(name: str, report: Report, results: Results) -> Found:
    matches = match(report.annotations, results, report.rules)
    return Found(name, results, matches, outcome(report.annotations, results, matches))


def _summary(report: Report, fused: Found, analysis: Analysis) -> str:
    annotations, metrics = report.annotations, report.evaluation.metrics
    best = analysis.best
    values = [
        ("AP", fraction(metrics["AP"])),
        ("AP50", fraction(metrics["AP50"])),
        ("recall", _percent(best and best.recall)),
        ("precision", _percent(best and best.precision)),
        ("images", f"{len(annotations.images):,}"),
        ("objects", f"{sum(one.objects for one in analysis.classes):,}"),
        ("classes", f"{len(annotations.names):,}"),
    ]
    told = f"Recall and precision at the threshold of the best F1, {fused.outcome.threshold:.2f}, and IoU {IOU}."
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
    strange = (
        "" if report.rules.are_cocos else paragraph("Not by COCO's rules: not comparable with others' numbers.", "bad")
    )
    return cards(values) + (paragraph(told, "faint") if best else "") + strange + facts(listed.items())


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"
