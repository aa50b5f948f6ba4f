"""Writes docs/evidence.md and its pictures from the result files.

    pip install -e '.[docs]'
    python -m benchmarks.evidence.page

What the figures mean is written by hand in conclusions.md beside each protocol's results, and comes first. It is a
Jinja template whose figures come from the results, too, by the methods of ``Figures``.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import jinja2
import numpy as np

from benchmarks.evidence import pictures
from benchmarks.evidence.figures import Figures, value
from benchmarks.evidence.rows import PROTOCOLS
from divdet.engine.cli import run
from divdet.engine.files import make_folder

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
TITLES = {"cls": "Classification", "det": "Detection"}
# What conclusions.md shows
FAMILIES = {
    "cifar2k": "CIFAR-10, 2,000 images",
    "cifar2k_wrn10": "CIFAR-10, 2,000 images",
    "cifar2k_full": "CIFAR-10, 2,000 images, strong augmentation",
    "cells50": "blood cells, 50 photos",
    "cifar50k": "CIFAR-10, 50,000 images",
}
CURVES = {
    "cifar2k_w16_s1": "w=16",
    "cifar2k_w32_s1": "w=32",
    "cifar2k_w64_s1": "w=64",
    "cifar2k_w128_s1": "w=128",
    "cifar2k_w256_s1": "w=256",
    "cifar2k_w64_s4": "S=4 of w=64",
}
ARMS = {
    "CIFAR-10, 2,000 images, S=4 of w=64": {
        "cifar2k_w64_apart_s4": "same views, no co-training",
        "cifar2k_w64_loss_s4": "same views, co-training",
        "cifar2k_w64_views_s4": "different views, no co-training",
        "cifar2k_w64_s4": "different views, co-training",
    },
}


def table(head: list[str], lines: Iterable[list[str]]) -> str:
    """A Markdown table."""
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))


def quality(figures: Figures, rows: list[str], task: str) -> str:
    """Cost and accuracy, a line for each row."""
    shown = {"cls": ["top1", "members", "cosine_similarity"], "det": ["AP", "AP50", "members", "nms"]}[task]
    lines = []
    for row in rows:
        first = figures.rows[row][0]
        milliseconds = figures.latency(first)
        several = first["members"] > 1
        cells = [figures.mean(row, name) if several or name in first["metrics"] else "–" for name in shown]
        over_images = [figures.over_images(row)] if task == "det" else []
        lines.append(
            [
                *(row, str(first["members"]), f"{value(first, 'params'):.3g}", f"{value(first, 'gflops'):.3g}"),
                f"{milliseconds:.3g}" if np.isfinite(milliseconds) else "–",
                *(cells[0], figures.above(row), *over_images, *cells[1:], str(len(figures.rows[row]))),
            ]
        )
    names = {"cls": ["members' mean", "cosine similarity"], "det": ["AP50", "members' mean", "by NMS, not WBF"]}[task]
    over = ["above S=1 (95 % over runs)", *(["95 % over images"] if task == "det" else [])]
    first = {"cls": "top-1, %", "det": "AP"}[task]
    return table(["row", "S", "M parameters", "GFLOPs", "ms an image", first, *over, *names, "runs"], lines)


def ensemble_rules(figures: Figures, rows: list[str]) -> str:
    """Top-1 by every rule of ensemble."""
    divided = [row for row in rows if figures.rows[row][0]["members"] > 1]
    rules = list(figures.rows[rows[0]][0]["metrics"]["combine"])
    lines = [[row, *[figures.mean(row, rule) for rule in rules]] for row in divided]
    return table(["top-1, % by", *[f"`{rule}`" for rule in rules]], lines)


def conclusions(figures: Figures, path: Path) -> str:
    """The text by hand, its figures filled in; a row or figure that is not there raises."""
    template = jinja2.Template(path.read_text(), undefined=jinja2.StrictUndefined)
    methods = {name: getattr(figures, name) for name in dir(figures) if not name.startswith("_")}
    return template.render(methods, value=value, again=Figures(path.parent / "again", figures.wholes)).strip()


def draw(figures: Figures, folder: Path) -> None:
    """The pictures that conclusions.md shows, as far as their rows have results."""
    if families := {name: title for name, title in FAMILIES.items() if name in figures.widths()}:
        pictures.widths(figures, families, folder / "evidence-widths.png")
    if rows := {row: label for row, label in CURVES.items() if row in figures.rows}:
        pictures.curves(figures, rows, folder / "evidence-curves.png")
    panels = {title: {row: label for row, label in arms.items() if row in figures.rows} for title, arms in ARMS.items()}
    if panels := {title: arms for title, arms in panels.items() if arms}:
        pictures.arms(figures, panels, folder / "evidence-arms.png")


def part(protocol: str, output: Path) -> list[str]:
    """What one protocol's results say; its pictures are written below ``output``."""
    folder = HERE / "results" / protocol
    figures = Figures(folder, {row.name: row.whole for row in PROTOCOLS[protocol]})
    draw(figures, output / "pictures")
    text = folder / "conclusions.md"
    sections = [conclusions(figures, text)] if text.exists() else []
    for task, title in TITLES.items():
        rows = [row.name for row in PROTOCOLS[protocol] if row.task == task and row.name in figures.rows]
        if rows:
            sections += [f"## {title}: all rows", quality(figures, rows, task)]
            sections += ["### Rules of ensemble", ensemble_rules(figures, rows)] if task == "cls" else []
    machines = sorted({json.dumps(result["machine"]) for results in figures.rows.values() for result in results})
    return [
        *sections,
        "## How it was measured",
        f"`python -m benchmarks.evidence.run {protocol}` trains what has no file in "
        f"benchmarks/evidence/results/{protocol}; `python -m benchmarks.evidence.latency {protocol}` times them; "
        "`python -m benchmarks.evidence.page` writes this page. What each row is trained with is in "
        "benchmarks/evidence/rows.py and in the result files, which hold the 12 COCO numbers, each member's numbers "
        "and other ways of fusion, too. ± is the standard deviation over the runs. Differences are taken run by run: a "
        "seed decides which images are drawn for training, the same for both networks; their interval is Student's t. "
        "Intervals over images: the bootstrap of the evaluation's images, the same draws for both. ms: the fastest of "
        "one after another and at once. Machines: "
        + "; ".join(", ".join(f"{k} {v}" for k, v in json.loads(machine).items() if v) for machine in machines)
        + ".",
    ]


def main(words: list[str] | None = None) -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="folder")
    output = parser.parse_args(words).output
    make_folder(output)
    protocols = [protocol for protocol in PROTOCOLS if any((HERE / "results" / protocol).glob("*-*.json"))]
    if not protocols:
        parser.error("no results yet: python -m benchmarks.evidence.run cpu")
    sections = ["# Evidence", "Does dividing and co-training pay? Measured by this toolkit."]
    for protocol in protocols:
        title = [f"# Results on a {protocol.upper()}"] if len(protocols) > 1 else []
        sections += [*title, *part(protocol, output)]
    (output / "evidence.md").write_text("\n\n".join(sections) + "\n")


if __name__ == "__main__":
    run(main)
