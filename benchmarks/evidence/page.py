"""Writes docs/evidence.md and its plots from the result files.

    python -m benchmarks.evidence.page cpu

The figures are means over the seeds ± their standard deviation (of one seed, the figure alone). What they mean is
written by hand in conclusions.md beside the results, and becomes the page's first section.
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

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
Result = dict[str, Any]
RULES = ("mean", "max", "geometric", "softmax_mean", "softmax_max")


def read(folder: Path) -> dict[str, list[Result]]:
    """Results by row, in the order of their file names."""
    rows: dict[str, list[Result]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
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


def members_mean(name: str) -> Callable[[Result], float]:
    """The mean of a metric over a result's members."""
    return lambda result: float(np.mean([member[name] for member in result["metrics"]["members"]]))


def costs(result: Result) -> list[str]:
    return [str(result["members"]), f"{result['cost']['params'] / 1e6:.3f}", f"{result['cost']['gflops']:.3f}"]


def classification(rows: dict[str, list[Result]]) -> str:
    """The classifiers' table."""
    rules = [rule for rule in next(iter(rows.values()))[0]["metrics"]["combine"]]
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
                column(results, lambda r: r["minutes"], 1),
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
                column(results, lambda r: r["minutes"], 1),
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


def plot(rows: dict[str, list[Result]], metric: str, path: Path) -> None:
    """Accuracy against parameters and operations, a line for each recipe at its numbers of members."""
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    recipes: dict[str, list[list[Result]]] = defaultdict(list)
    for name, results in rows.items():
        recipes[name.rsplit("_s", 1)[0]].append(results)
    for axis, (cost, unit) in zip(axes, (("params", 1e6), ("gflops", 1)), strict=True):
        for recipe, divided in recipes.items():
            x = [results[0]["cost"][cost] / unit for results in divided]
            values = [[result["metrics"][metric] for result in results] for results in divided]
            error = [np.std(v, ddof=1) if len(v) > 1 else 0 for v in values]
            axis.errorbar(x, [np.mean(v) for v in values], yerr=error, marker="o", capsize=3, label=recipe)
            for place, results, v in zip(x, divided, values, strict=True):
                axis.annotate(
                    f"S={results[0]['members']}", (place, np.mean(v)), xytext=(4, 4), textcoords="offset points"
                )
        axis.set_xlabel({"params": "parameters, millions", "gflops": "GFLOPs (the paper's convention)"}[cost])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel({"top1": "top-1, %", "AP": "AP"}[metric])
    axes[1].legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", choices=["cpu", "gpu"])
    protocol = parser.parse_args().protocol
    rows = read(HERE / "results" / protocol)
    if not rows:
        parser.error(f"no results of this protocol yet: python -m benchmarks.evidence.run {protocol}")
    machines = sorted({json.dumps(result["machine"]) for results in rows.values() for result in results})
    of = {task: {n: r for n, r in rows.items() if r[0]["task"] == task} for task in ("cls", "det")}
    sections = ["# Does dividing pay?", (HERE / "conclusions.md").read_text().strip()]
    for task, title, metric, make in (
        ("cls", "Classification", "top1", classification),
        ("det", "Detection", "AP", detection),
    ):
        if not of[task]:
            continue
        picture = ROOT / f"docs/pictures/evidence-{protocol}-{task}.png"
        plot(of[task], metric, picture)
        sections += [f"## {title}", make(of[task]), f"![{title}](pictures/{picture.name})"]
    if swept := fusion(of["det"]):
        sections += ["## Fusion", swept]
    sections += [
        "## How it was measured",
        f"`python -m benchmarks.evidence.run {protocol}` trains what has no file in "
        f"benchmarks/evidence/results/{protocol}; `python -m benchmarks.evidence.page {protocol}` writes this page. "
        "The rows are in benchmarks/evidence/rows.py. Machines: "
        + "; ".join(", ".join(f"{k} {v}" for k, v in json.loads(machine).items() if v) for machine in machines)
        + ".",
    ]
    (ROOT / "docs/evidence.md").write_text("\n\n".join(sections) + "\n")


if __name__ == "__main__":
    main()
