"""The pictures of docs/evidence.md: accuracy against cost over widths and S, curves of training, arms beside S=1."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.evidence.figures import Figures, Result, interval, value
from benchmarks.evidence.rows import METRIC

LABELS = {"top1": "top-1, %", "AP": "AP"}
MARKERS = {2: ("C0", "^"), 4: ("C3", "s"), 8: ("C2", "D"), 16: ("C4", "P")}


def save(figure: Figure, path: Path) -> None:
    """Writes a picture, in the size at which a page shows it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def widths(figures: Figures, families: dict[str, str], path: Path) -> None:
    """Accuracy of S=1 at several widths as a line, and of S > 1 at the same cost as points: a line of panels a family.

    Args:
        figures: of a protocol.
        families: titles by the name of a family of rows.
        path: of the picture.
    """
    costs: dict[str, Callable[[Result], float]] = {
        "parameters, millions": lambda result: value(result, "params"),
        "GFLOPs (the paper's convention)": lambda result: value(result, "gflops"),
        "ms an image, the fastest way": figures.latency,
    }
    figure, axes = pyplot.subplots(
        *(len(families), len(costs)), figsize=(13, 4 * len(families)), sharey="row", layout="constrained", squeeze=False
    )
    for line, (family, title) in zip(axes, families.items(), strict=True):
        rows = figures.widths()[family]
        for axis, (label, cost) in zip(line, costs.items(), strict=True):
            whole = [own[1] for own in rows.values() if 1 in own]
            points(axis, figures, whole, cost, color="black", marker="o", label="S=1, by width")
            for members, (color, marker) in MARKERS.items():
                if divided := [own[members] for own in rows.values() if members in own]:
                    points(axis, figures, divided, cost, color, marker, f"S={members}, as costly", linestyle=":")
            axis.set(xscale="log", xlabel=label)
            axis.margins(x=0.25, y=0.1)
            low, high = axis.get_xlim()
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("")
            axis.grid(alpha=0.3)
        for row in whole:
            place = (value(figures.rows[row][0], "params"), figures.average(row))
            name = figures.rows[row][0]["cost"]["backbone"]
            line[0].annotate(name, place, xytext=(5, -13), textcoords="offset points", fontsize=9)
        line[0].set_ylabel(f"{title}\n{LABELS[metric(figures, whole[0])]}")
    legend: dict[str, Artist] = {}
    for axis in axes.flat:
        handles, labels = axis.get_legend_handles_labels()
        legend |= zip(labels, handles, strict=True)
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=5)
    save(figure, path)


def points(
    axis: Axes,
    figures: Figures,
    rows: list[str],
    cost: Callable[[Result], float],
    color: str,
    marker: str,
    label: str,
    linestyle: str = "-",
) -> None:
    """Means of rows with the standard deviation over their runs, hollow where there is one run, joined by a line."""
    x = [np.mean([cost(result) for result in figures.rows[row]]) for row in rows]
    runs = [figures.values(row, metric(figures, row)) for row in rows]
    error = [np.std(own, ddof=1) if len(own) > 1 else 0 for own in runs]
    means = [np.mean(own) for own in runs]
    axis.errorbar(x, means, yerr=error, color=color, marker=marker, label=label, linestyle=linestyle, capsize=3)
    for place, mean, own in zip(x, means, runs, strict=True):
        if len(own) == 1:
            axis.plot(place, mean, marker=marker, color=color, markerfacecolor="white", zorder=3)


def curves(figures: Figures, rows: dict[str, str], path: Path) -> None:
    """Training loss by epoch, and the accuracy where it was evaluated: means over the runs; titles by row."""
    figure, (losses, accuracies) = pyplot.subplots(1, 2, figsize=(13, 4), layout="constrained")
    for row, label in rows.items():
        runs = [result["curve"] for result in figures.of(row)]
        epochs = [point[0] for point in runs[0]]
        loss = np.mean([[point[1] for point in run] for run in runs], axis=0)
        line = losses.plot(epochs, loss / figures.of(row)[0]["members"], label=label)[0]
        at = [i for i, point in enumerate(runs[0]) if point[2] is not None]
        accuracy = np.mean([[run[i][2] for i in at] for run in runs], axis=0)
        accuracies.plot([epochs[i] for i in at], accuracy, "o-", color=line.get_color(), label=label)
    losses.set(xlabel="epoch", ylabel="training loss a member, co-training's included", yscale="log")
    accuracies.set(xlabel="epoch", ylabel=LABELS[metric(figures, next(iter(rows)))])
    for axis in (losses, accuracies):
        axis.grid(alpha=0.3)
    accuracies.legend()
    save(figure, path)


def arms(figures: Figures, panels: dict[str, dict[str, str]], path: Path) -> None:
    """What each row has above its undivided network: runs as dots, their mean, and its 95 % interval.

    Args:
        figures: of a protocol.
        panels: by title, labels by row.
        path: of the picture.
    """
    heights = [len(rows) + 1 for rows in panels.values()]
    figure, axes = pyplot.subplots(
        len(panels), figsize=(9, 0.45 * sum(heights)), height_ratios=heights, layout="constrained", squeeze=False
    )
    for axis, (title, rows) in zip(axes.flat, panels.items(), strict=True):
        for place, row in enumerate(rows):
            differences = figures.differences(row, figures.wholes[row])
            mean, bounds = np.mean(differences), interval(differences)
            reach = np.abs(np.array(bounds or (mean, mean)) - mean)[:, None]
            axis.errorbar(mean, place, xerr=reach, fmt="o", color="C0", capsize=4)
            axis.plot(differences, [place] * len(differences), ".", color="gray", markersize=4)
        axis.axvline(0, color="black", linewidth=1)
        axis.set(title=title, yticks=range(len(rows)), yticklabels=rows.values(), ylim=(len(rows) - 0.5, -0.5))
        axis.grid(alpha=0.3, axis="x")
        axis.set_xlabel(f"{LABELS[metric(figures, next(iter(rows)))]} above S=1")
    save(figure, path)


def metric(figures: Figures, row: str) -> str:
    """What the row's networks are compared by."""
    return METRIC[figures.of(row)[0]["task"]]
