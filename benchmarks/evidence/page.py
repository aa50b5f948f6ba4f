"""Writes docs/evidence.md and its plots from the result files.

    python -m benchmarks.evidence.page

The figures are means over the seeds ± their standard deviation (of one seed, the figure alone). What they mean is
written by hand in conclusions.md beside each protocol's results, and comes first.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.evidence.rows import PROTOCOLS

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
Result = dict[str, Any]
LATENCY_KEYS = ("task", "backbone", "classes", "image_size", "members", "how", "batch_size")
Latencies = dict[tuple[Any, ...], float]


def read(folder: Path) -> dict[str, list[Result]]:
    """Results by row, in the order of their file names."""
    rows: dict[str, list[Result]] = defaultdict(list)
    for path in sorted(folder.glob("*-*.json")):
        result = json.loads(path.read_text())
        rows[result["row"]].append(result)
    return rows


def spread(values: Iterable[float], digits: int) -> str:
    """Mean ± standard deviation."""
    values = list(values)
    text = f"{np.mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {np.std(values, ddof=1):.{digits}f}"


def table(head: list[str], lines: Iterable[list[str]]) -> str:
    """A Markdown table."""
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))


def column(results: list[Result], value: Callable[[Result], float], digits: int) -> str:
    return spread((value(result) for result in results), digits)


def minutes(results: list[Result]) -> str:
    """Of the trainings that went through without a stop."""
    whole = [result["minutes"] for result in results if result["minutes"] is not None]
    return spread(whole, 1) if whole else "–"


def members_mean(name: str) -> Callable[[Result], float]:
    """The mean of a metric over a result's members."""
    return lambda result: float(np.mean([member[name] for member in result["metrics"]["members"]]))


def costs(result: Result) -> list[str]:
    return [str(result["members"]), f"{result['cost']['params'] / 1e6:.3f}", f"{result['cost']['gflops']:.3f}"]


def classification(rows: dict[str, list[Result]]) -> str:
    """The classifiers' table."""
    rules = list(next(iter(rows.values()))[0]["metrics"]["combine"])
    lines = []
    for name, results in rows.items():
        similar = [r["metrics"]["cosine_similarity"] for r in results if r["metrics"]["cosine_similarity"] is not None]
        lines.append(
            [
                name,
                *costs(results[0]),
                column(results, lambda r: r["metrics"]["top1"], 2),
                column(results, members_mean("top1"), 2),
                spread(similar, 3) if similar else "–",
                *[column(results, lambda r, rule=rule: r["metrics"]["combine"][rule], 2) for rule in rules],
                str(len(results)),
                minutes(results),
            ]
        )
    head = ["row", "S", "M parameters", "GFLOPs", "top-1, %", "its members' mean", "cosine similarity"]
    return table([*head, *[f"by {rule}" for rule in rules], "runs", "minutes"], lines)


def detection(rows: dict[str, list[Result]]) -> str:
    """The detectors' table."""
    lines = []
    for name, results in rows.items():
        best = [r["metrics"]["AP"] - max(m["AP"] for m in r["metrics"]["members"]) for r in results]
        lines.append(
            [
                name,
                *costs(results[0]),
                *[column(results, lambda r, key=key: r["metrics"][key], 3) for key in ("AP", "AP50", "AP75")],
                column(results, members_mean("AP"), 3),
                spread(best, 3) if results[0]["members"] > 1 else "–",
                str(len(results)),
                minutes(results),
            ]
        )
    head = ["row", "S", "M parameters", "GFLOPs", "AP", "AP50", "AP75", "its members' mean AP"]
    return table([*head, "AP above the best member's", "runs", "minutes"], lines)


def fusion(rows: dict[str, list[Result]]) -> str:
    """AP of every rule and threshold of fusion, by row."""
    parts = []
    for name, results in rows.items():
        if "fusion" not in results[0]:
            continue
        found: dict[tuple[str, float], list[float]] = defaultdict(list)
        for line in (line for result in results for line in result["fusion"]):
            found[line["fusion_conf"], line["fusion_iou"]].append(line["AP"])
        ious = sorted({iou for _, iou in found})
        lines = [
            [f"`{conf}`", *[spread(found[conf, iou], 3) for iou in ious]]
            for conf in dict.fromkeys(conf for conf, _ in found)
        ]
        parts.append(f"AP of {name} by `fusion_conf` and `fusion_iou`:\n\n" + table(["", *map(str, ious)], lines))
    return "\n\n".join(parts)


def read_latencies(folder: Path) -> Latencies:
    """Milliseconds of a batch as latency.py measured them, by ``LATENCY_KEYS``."""
    path = folder / "latency.json"
    lines = json.loads(path.read_text())["lines"] if path.exists() else []
    return {tuple(line[key] for key in LATENCY_KEYS): line["milliseconds"] for line in lines}


def latency_of(result: Result, found: Latencies) -> float:
    """Milliseconds of one image, the members in sequence; NaN where it was not measured."""
    facts = [result["cost"][key] for key in LATENCY_KEYS[:4]]
    return found.get((*facts, result["members"], "sequential", 1), np.nan)


def latency(found: Latencies) -> str:
    """The table of latency and throughput: whole, in sequence and at once; graphs are compared with graphs."""
    lines = []
    for (task, backbone, classes, size, members, how, batch), own in found.items():
        alike = "graph, sequential" if how.startswith("graph") else "sequential"
        whole = found[task, backbone, classes, size, 1, alike, batch]
        what = f"{'SSD300, ' if task == 'det' else ''}{backbone}, {classes} classes, {size} pixels"
        times = [f"{own:.3g}", f"{1000 * batch / own:.4g}", f"{whole / own:.2f}"]
        lines.append([what, str(batch), str(members), how, *times])
    return table(["network", "batch", "S", "members", "ms a batch", "images/s", "speed, S=1 is 1"], lines)


def plot(rows: dict[str, list[Result]], metric: str, found: Latencies, path: Path) -> None:
    """Accuracy against parameters, operations and latency, a line for each recipe at its numbers of members."""
    axis_of: dict[str, Callable[[Result], float]] = {
        "parameters, millions": lambda result: result["cost"]["params"] / 1e6,
        "GFLOPs (the paper's convention)": lambda result: result["cost"]["gflops"],
        "ms an image, members in sequence": lambda result: latency_of(result, found),
    }
    figure, axes = pyplot.subplots(1, len(axis_of), figsize=(14, 4.5), sharey=True, layout="constrained")
    recipes: dict[str, list[list[Result]]] = defaultdict(list)
    for name, results in rows.items():
        recipes[name.rsplit("_s", 1)[0]].append(results)
    for axis, (title, cost) in zip(axes, axis_of.items(), strict=True):
        for recipe, divided in recipes.items():
            x = [cost(results[0]) for results in divided]
            values = [[result["metrics"][metric] for result in results] for results in divided]
            error = [np.std(v, ddof=1) if len(v) > 1 else 0 for v in values]
            axis.errorbar(x, [np.mean(v) for v in values], yerr=error, marker="o", capsize=3, label=recipe)
            for place, results, v in zip(x, divided, values, strict=True):
                label = f"S={results[0]['members']}"
                axis.annotate(label, (place, np.mean(v)), xytext=(6, -3), textcoords="offset points", fontsize=8)
        axis.set_xlabel(title)
        if np.isfinite(axis.dataLim.x1):  # latencies may not have been measured yet
            axis.set_xlim(0, 1.15 * axis.dataLim.x1)  # from 0, or networks of nearly the same cost would look far apart
        axis.grid(alpha=0.3)
    axes[0].set_ylabel({"top1": "top-1, %", "AP": "AP"}[metric])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def part(protocol: str) -> list[str]:
    """What one protocol's results say."""
    folder = HERE / "results" / protocol
    rows, latencies = read(folder), read_latencies(folder)
    machines = sorted({json.dumps(result["machine"]) for results in rows.values() for result in results})
    of = {task: {n: r for n, r in rows.items() if r[0]["task"] == task} for task in ("cls", "det")}
    sections = [f"# Results on a {protocol.upper()}", (folder / "conclusions.md").read_text().strip()]
    for task, title, metric, make in (
        ("cls", "Classification", "top1", classification),
        ("det", "Detection", "AP", detection),
    ):
        if not of[task]:
            continue
        sections += [f"## {title}", make(of[task])]
        for data in dict.fromkeys(results[0]["data"] for results in of[task].values()):
            own = {name: results for name, results in of[task].items() if results[0]["data"] == data}
            picture = ROOT / f"docs/pictures/evidence-{protocol}-{Path(data).stem}.png"
            plot(own, metric, latencies, picture)
            sections.append(f"![{title}, {Path(data).stem}](pictures/{picture.name})")
    if swept := fusion(of["det"]):
        sections += ["## Fusion", swept]
    if latencies:
        sections += ["## Latency and throughput", latency(latencies)]
    return [
        *sections,
        "## How it was measured",
        f"`python -m benchmarks.evidence.run {protocol}` trains what has no file in "
        f"benchmarks/evidence/results/{protocol}; `python -m benchmarks.evidence.latency {protocol}` times them; "
        "`python -m benchmarks.evidence.page` writes this page. What each row is trained with is in "
        "benchmarks/evidence/rows.py. Machines: "
        + "; ".join(", ".join(f"{k} {v}" for k, v in json.loads(machine).items() if v) for machine in machines)
        + ".",
    ]


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    protocols = [protocol for protocol in PROTOCOLS if read(HERE / "results" / protocol)]
    if not protocols:
        parser.error("no results yet: python -m benchmarks.evidence.run cpu")
    sections = [
        "*Does dividing and co-training pay?* Measured by this toolkit.",
        *(s for p in protocols for s in part(p)),
    ]
    (ROOT / "docs/evidence.md").write_text("\n\n".join(sections) + "\n")


if __name__ == "__main__":
    main()
