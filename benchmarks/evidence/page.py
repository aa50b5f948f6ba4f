"""Writes docs/evidence.md and its plots from the result files.

    pip install -e '.[docs]'
    python -m benchmarks.evidence.page

What the figures mean is written by hand in conclusions.md beside each protocol's results, and comes first. It is a
Jinja template whose figures come from the results, too, by the methods of ``Figures``.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import jinja2
import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.evidence.figures import Figures, Result, value
from benchmarks.evidence.rows import METRIC, PROTOCOLS
from detection.evaluation.coco_metrics import METRICS
from divdet.engine.cli import run
from divdet.engine.files import make_folder

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
TITLES = {"cls": "Classification", "det": "Detection"}


def table(head: list[str], lines: Iterable[list[str]]) -> str:
    """A Markdown table."""
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))


def costs(figures: Figures, row: str) -> list[str]:
    """S, parameters, those of the members alone, operations and latency."""
    first = figures.rows[row][0]
    milliseconds = figures.latency(first)
    return [
        str(first["members"]),
        f"{value(first, 'params'):.3f}",
        *([f"{value(first, 'own_params'):.3f}"] if first["task"] == "det" else []),
        f"{value(first, 'gflops'):.3f}",
        f"{milliseconds:.3g}" if np.isfinite(milliseconds) else "–",
    ]


def quality(figures: Figures, rows: list[str], task: str) -> str:
    """Accuracy against cost, a line for each row."""
    metrics = {"cls": ["top1", "top5"], "det": ["AP", "AP50", "AP75"]}[task]
    lines = [
        [
            row,
            *costs(figures, row),
            *[figures.mean(row, name) for name in metrics],
            figures.above(row),
            *([figures.over_images(row)] if task == "det" else []),
            *[figures.mean(row, name) for name in ("members", "best", "gain")],
            *([figures.mean(row, "cosine_similarity", 3)] if task == "cls" else []),
            str(len(figures.rows[row])),
            f"{min(minutes):.1f}" if (minutes := figures.values(row, "minutes")) else "–",
        ]
        for row in rows
    ]
    head = [
        "row",
        "S",
        "M parameters",
        *(["of the members"] if task == "det" else []),
        "GFLOPs",
        "ms an image, the fastest way",
    ]
    head += {"cls": ["top-1, %", "top-5, %"], "det": metrics}[task]
    head += [
        "difference to S=1 (95 % over runs)",
        *(["95 % over images"] if task == "det" else []),
        "members' mean",
        "best member",
        "ensemble − best member",
    ]
    return table([*head, *(["cosine similarity"] if task == "cls" else []), "runs", "minutes, the fastest"], lines)


def ensemble_rules(figures: Figures, rows: list[str]) -> str:
    """Top-1 by every rule of ensemble."""
    divided = [row for row in rows if figures.rows[row][0]["members"] > 1]
    rules = list(figures.rows[rows[0]][0]["metrics"]["combine"])
    lines = [[row, *[figures.mean(row, rule) for rule in rules]] for row in divided]
    return table(["top-1, % by", *[f"`{rule}`" for rule in rules]], lines)


def twelve(figures: Figures, rows: list[str]) -> str:
    """The 12 numbers of COCO, of the fused boxes and of the members, means over the runs."""

    def line(row: str, of: str, read: Callable[[Result, str], float]) -> list[str]:
        return [
            row,
            of,
            *[f"{np.mean([read(result, name) for result in figures.rows[row]]):.3f}" for name in METRICS],
        ]

    lines = []
    for row in rows:
        members = figures.rows[row][0]["members"]
        lines.append(line(row, "fused" if members > 1 else "undivided", lambda result, name: result["metrics"][name]))
        if members > 1:
            for i in range(members):
                lines.append(line(row, f"member {i}", lambda r, name, i=i: r["metrics"]["members"][i][name]))
    return table(["row", "boxes", *METRICS], lines)


def fusion(figures: Figures, rows: list[str]) -> str:
    """AP of every rule and threshold of fusion, by row."""
    parts = []
    for row in rows:
        if figures.rows[row][0]["members"] == 1:
            continue
        swept = figures.rows[row][0]["fusion"]
        ious = sorted({line["fusion_iou"] for line in swept})
        alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for conf in dict.fromkeys(line["fusion_conf"] for line in swept):
            alike[tuple(figures.fused(row, conf, iou) for iou in ious)].append(f"`{conf}`")
        lines = [[", ".join(confs), *cells] for cells, confs in alike.items()]
        parts.append(f"AP of {row} by `fusion_conf` and `fusion_iou`:\n\n" + table(["", *map(str, ious)], lines))
    return "\n\n".join(parts)


def latency(figures: Figures) -> str:
    """The table of latency and throughput: whole, in sequence and at once; graphs are compared with graphs."""
    lines = []
    for (task, backbone, classes, size, stem, members, how, batch), own in figures.latencies.items():
        alike = "graph, sequential" if how.startswith("graph") else "sequential"
        whole = figures.latencies[task, backbone, classes, size, stem, 1, alike, batch]
        what = f"{'SSD300, ' if task == 'det' else ''}{backbone}, {classes} classes, {size} pixels"
        low, high = figures.quartiles[task, backbone, classes, size, stem, members, how, batch]
        times = [f"{own:.3g}", f"{low:.3g} to {high:.3g}", f"{1000 * batch / own:.4g}", f"{whole / own:.2f}"]
        lines.append([what, str(batch), str(members), how, *times])
    return table(["network", "batch", "S", "members", "ms a batch", "quartiles", "images/s", "speed, S=1 is 1"], lines)


def training(figures: Figures) -> str:
    """What the rows were trained with."""
    lines = []
    for row, results in figures.rows.items():
        recipe = results[0]["recipe"]
        several = results[0]["members"] > 1
        settings = [recipe["train"][name] for name in ("epochs", "batch_size", "lr", "weight_decay")]
        settings.append(recipe["train"]["cot_weight"] if several else "–")
        views = "one a member" if several and recipe["data"]["different_views"] else "one"
        start = results[0]["start"] or "–"
        images = str(results[0]["metrics"]["images"])
        lines.append([row, results[0]["data"], images, *map(str, settings), views, start])
    head = ["row", "data", "images evaluated", "epochs", "batch", "lr", "weight decay", "λ", "views of an image"]
    return table([*head, "starts from"], lines)


def plot(figures: Figures, rows: list[str], metric: str, path: Path) -> None:
    """Accuracy against parameters, operations, latency and the members' own, a line for each recipe."""
    axis_of: dict[str, Callable[[Result], float]] = {
        "parameters, millions": lambda result: value(result, "params"),
        "GFLOPs (the paper's convention)": lambda result: value(result, "gflops"),
        "ms an image, the fastest way": figures.latency,
        "the members' own, mean": lambda result: value(result, "members") or value(result, metric),
    }
    figure, axes = pyplot.subplots(1, len(axis_of), figsize=(18, 4.5), sharey=True, layout="constrained")
    recipes: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        recipes[row.rsplit("_s", 1)[0]].append(row)
    for axis, (title, cost) in zip(axes, axis_of.items(), strict=True):
        for recipe, divided in recipes.items():
            runs = [figures.rows[row] for row in divided]
            x = [np.mean([cost(result) for result in results]) for results in runs]
            y = [figures.values(row, metric) for row in divided]
            error = [np.std(v, ddof=1) if len(v) > 1 else 0 for v in y]
            members = [results[0]["members"] for results in runs]
            label = recipe if len(divided) > 1 else f"{recipe}, S={members[0]}"
            line = axis.errorbar(x, [np.mean(v) for v in y], yerr=error, capsize=3, label=label)
            color = line[0].get_color()
            for place, count, results, v in zip(x, members, runs, y, strict=True):
                axis.plot(place, np.mean(v), "o", color=color, markerfacecolor=color if len(v) > 1 else "white")
                axis.plot([cost(result) for result in results], v, ".", color=color, alpha=0.5, markersize=4)
                if len(divided) > 1:
                    offset = {"xytext": (6, 5), "textcoords": "offset points", "fontsize": 8, "color": color}
                    axis.annotate(f"S={count}", (place, np.mean(v)), **offset)
        axis.set_xlabel(title)
        axis.locator_params(axis="x", nbins=6)
        axis.grid(alpha=0.3)
    for axis in axes[:-1]:
        if np.isfinite(axis.dataLim.x1):  # latencies may not have been measured yet
            axis.set_xlim(0, 1.15 * axis.dataLim.x1)  # from 0, or networks of nearly the same cost would look far apart
    axes[-1].axline((axes[-1].get_xlim()[1],) * 2, slope=1, color="gray", linestyle=":")  # where nothing is gained
    axes[0].set_ylabel({"top1": "top-1, %", "AP": "AP"}[metric])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=8, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def conclusions(figures: Figures, path: Path) -> str:
    """The text by hand, its figures filled in; a row or figure that is not there raises."""
    template = jinja2.Template(path.read_text(), undefined=jinja2.StrictUndefined)
    methods = {name: getattr(figures, name) for name in dir(figures) if not name.startswith("_")}
    return template.render(methods, value=value, again=Figures(path.parent / "again", figures.wholes)).strip()


def part(protocol: str, output: Path) -> list[str]:
    """What one protocol's results say; its plots are written below ``output``."""
    folder = HERE / "results" / protocol
    figures = Figures(folder, {row.name: row.whole for row in PROTOCOLS[protocol]})
    text = folder / "conclusions.md"
    sections = [conclusions(figures, text)] if text.exists() else []
    for task, title in TITLES.items():
        rows = [row for row, results in figures.rows.items() if results[0]["task"] == task]
        if not rows:
            continue
        sections += [f"## {title}", quality(figures, rows, task)]
        groups: dict[str, list[str]] = defaultdict(list)
        for row in rows:  # longer training would squeeze the rest into a corner
            first = figures.rows[row][0]
            groups[f"{Path(first['data']).stem}, {first['recipe']['train']['epochs']} epochs"].append(row)
        for group, own in groups.items():
            picture = output / f"pictures/evidence-{protocol}-{group.replace(', ', '-').replace(' ', '-')}.png"
            plot(figures, own, METRIC[task], picture)
            sections.append(f"![{title}, {group}](pictures/{picture.name})")
        sections.append(
            "Circles are means (hollow: of one run), bars their standard deviation, dots the runs. Right of the dotted "
            "line the ensemble would be below its members' mean."
        )
        if task == "cls":
            sections += ["### Rules of ensemble", ensemble_rules(figures, rows)]
        else:
            sections += ["### The 12 numbers, means over the runs", twelve(figures, rows)]
            sections += ["### Fusion", fusion(figures, rows)]
    if figures.latencies:
        sections += ["## Latency and throughput", latency(figures)]
    sections += ["## What was trained", training(figures)]
    machines = sorted({json.dumps(result["machine"]) for results in figures.rows.values() for result in results})
    return [
        *sections,
        "## How it was measured",
        f"`python -m benchmarks.evidence.run {protocol}` trains what has no file in "
        f"benchmarks/evidence/results/{protocol}; `python -m benchmarks.evidence.latency {protocol}` times them; "
        "`python -m benchmarks.evidence.page` writes this page. What each row is trained with is in "
        "benchmarks/evidence/rows.py. ± is the standard deviation over the runs. Intervals of differences: over runs, "
        "Welch's; over images, the bootstrap of the evaluation's images, the same draws for both networks. Machines: "
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
