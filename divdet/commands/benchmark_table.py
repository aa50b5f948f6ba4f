"""The benchmark's rows as a Markdown table and as a picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from detection.heads import find_head

POSTPROCESSED = " + boxes"


def title(found: dict[str, Any]) -> str:
    """What was timed."""
    what = find_head(found["head"]).title if found["task"] == "det" else "classifier"
    network = f"{found['backbone']}, {what} at {found['image_size']} pixels, S={found['members']}"
    return f"{network}, {found['precision']}, {found['device']}"


def describe(found: dict[str, Any]) -> str:
    """The rows as a Markdown table, and the modes that this machine lacks."""
    lines = [
        f"{title(found)}, torch {found['torch']}",
        "",
        "| batch | | ms a batch | ms an image | images/s | times in sequence | deviation |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        size, ms, difference = row["batch_size"], row["milliseconds"], row["difference"]
        numbers = (f"{number:.4g}" for number in (ms, ms / size, row["per_second"]))
        deviation = "" if difference is None else f"{difference:.1g}"
        cells = [str(size), row["way"], *numbers, f"{row['speedup']:.3g}", deviation]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"not timed: {reason}" for reason in found["missing"].values())]
    return "\n".join(lines).rstrip()


def new_figure(path: Path) -> Any:
    """A figure of matplotlib; None, with a word on stderr, where that is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"no {path}: the picture needs pip install -e '.[docs]'", file=sys.stderr)
        return None
    return Figure(figsize=(7, 4.5), layout="constrained")


def draw(found: dict[str, Any], path: Path) -> None:
    """Plots images per second by batch size, post-processing left out."""
    if (figure := new_figure(path)) is None:
        return
    axes = figure.subplots()
    for way in dict.fromkeys(row["way"] for row in found["rows"] if not row["way"].endswith(POSTPROCESSED)):
        rows = [row for row in found["rows"] if row["way"] == way]
        axes.plot([row["batch_size"] for row in rows], [row["per_second"] for row in rows], marker="o", label=way)
    axes.set(xlabel="images at a time", ylabel="images a second", xscale="log", ylim=(0, None))
    axes.set_title(title(found))
    axes.legend()
    figure.savefig(path, dpi=120)
