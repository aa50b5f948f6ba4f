"""What the benchmark command says: a Markdown table and a picture of its rows."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POSTPROCESSED = " + boxes"


@dataclass
class Row:
    """One way at one batch size.

    Attributes:
        way: what ran; with ``POSTPROCESSED`` up to the boxes.
        batch_size: images at a time.
        milliseconds: of a batch, the median over the rounds.
        per_second: images.
        speedup: the median, over the rounds, of the members' time in sequence by this way's: above 1 is faster.
        difference: largest deviation of the outputs from those in sequence with as many threads an operation, by the
            largest output; None for the single network, which computes something else.
    """

    way: str
    batch_size: int
    milliseconds: float
    per_second: float
    speedup: float
    difference: float | None


def describe(found: dict[str, Any]) -> str:
    """The result as a Markdown table, and the modes that this machine lacks."""
    what = "SSD300" if found["task"] == "det" else "classifier"
    lines = [
        f"{found['backbone']}, {what} at {found['image_size']} pixels, S={found['members']}, {found['precision']}, "
        f"{found['device']}, torch {found['torch']}",
        "",
        "| batch | | ms a batch | ms an image | images/s | times in sequence | deviation |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        difference = "" if row["difference"] is None else f"{row['difference']:.1g}"
        lines.append(
            f"| {row['batch_size']} | {row['way']} | {row['milliseconds']:.4g} "
            f"| {row['milliseconds'] / row['batch_size']:.4g} | {row['per_second']:.4g} | {row['speedup']:.3g} "
            f"| {difference} |"
        )
    lines += ["", *(f"not timed: {reason}" for reason in found["missing"].values())]
    return "\n".join(lines).rstrip()


def draw(found: dict[str, Any], path: Path) -> None:
    """Images a second by batch size, without the boxes' part."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"no {path}: the picture needs pip install -e '.[docs]'", file=sys.stderr)
        return
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for way in dict.fromkeys(row["way"] for row in found["rows"] if not row["way"].endswith(POSTPROCESSED)):
        rows = [row for row in found["rows"] if row["way"] == way]
        axes.plot([row["batch_size"] for row in rows], [row["per_second"] for row in rows], marker="o", label=way)
    axes.set(xlabel="images at a time", ylabel="images a second", xscale="log", ylim=(0, None))
    axes.set_title(
        f"{found['backbone']}, {found['image_size']} pixels, S={found['members']}, {found['precision']}, "
        f"{found['device']}"
    )
    axes.legend()
    figure.savefig(path, dpi=120)
