"""Writes report.html, for the commands that evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detection.data.annotations import CocoAnnotations
from detection.detector import Detector
from detection.evaluation.evaluate import Evaluation
from detection.heads import title_of
from detection.visual.report import Report, write_report
from divdet.engine.errors import UserError


def describe_model(detector: Detector) -> dict[str, object]:
    """The detector, in words."""
    model, settings = detector.model, asdict(detector.resolved_settings())
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    title = title_of(model.head, model.input.size)
    return {
        "Model": f"{title}, {len(model.members)} member{'s' * (len(model.members) > 1)}, {parameters:.2f} M parameters",
        "Postprocess": ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None),
    }


def save_report(
    annotations: CocoAnnotations,
    found: Evaluation,
    about: Mapping[str, object],
    history: Sequence[dict[str, Any]],
    folder: Path,
) -> None:
    """Writes the page into a folder. Where that fails, says so: everything else is written."""
    path = folder / "report.html"
    try:
        write_report(Report(annotations, found.metrics, found.fused, found.members, about, history), path)
    except UserError as error:
        print(f"note: there is no report: {error}")
    else:
        print(f"wrote {path}")
