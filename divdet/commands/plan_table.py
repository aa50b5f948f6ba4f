"""The plan as a Markdown table, as a picture, and the folder that it is written to."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from divdet.commands.benchmark_table import new_figure
from divdet.commands.plan_front import advice, digits
from divdet.engine.files import make_folder


def describe(found: dict[str, Any]) -> str:
    """Candidates by latency, what is not among them, what is measured and assumed, and what to take."""
    budget, recipe = found["budget_ms"], found["recipe"]
    names = {"cls": "classifiers", "det": "detectors"}
    lines = [
        f"{names[found['task']]} for {found['data']}{f', recipe {recipe}' if recipe else ''}: {found['precision']}, "
        f"{found['device']}, threads {found['threads']}, torch {found['torch']}",
        "",
    ]
    head = ["candidate", "M params", "GFLOPs", "ms, batch 1 (quartiles)", f"images/s, batch {found['batch_size']}"]
    head += [found["metric"], "source", "front", *([] if budget is None else [f"{budget:g} ms"])]
    lines += [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head))]
    for row in found["candidates"]:
        low, high = row["quartiles"]
        cells = [row["name"], digits(row["params"] / 1e6), digits(row["gflops"])]
        cells += [
            f"{digits(row['milliseconds'])} ({digits(low)} to {digits(high)})",
            f"{row['per_second']:,.{0 if row['per_second'] >= 100 else 1}f}",
        ]
        cells += [*_accuracy(row["accuracy"]), _place(row)]
        cells += [] if budget is None else ["within" if row["within_budget"] else "over"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"refused: {one['backbone']} S={one['members']}: {one['reason']}" for one in found["refused"])]
    lines += [f"not timed: {reason} ({', '.join(own)})" for reason, own in found["missing"].items()]
    lines += [f"measured: {text}" for text in found["measured"]]
    lines += [f"assumed: {text}" for text in found["assumed"]]
    return "\n".join([*lines, *found["notes"], "", advice(found)])


def _accuracy(accuracy: dict[str, Any] | None) -> list[str]:
    if accuracy is None:
        return ["unknown", "train it"]
    spread = f" ± {accuracy['std']:.2g}" if accuracy["std"] else ""
    return [f"{accuracy['value']:.4g}{spread}", accuracy["source"]]


def _place(row: dict[str, Any]) -> str:
    if row["front"]:
        return "**on it**"
    return f"behind {row['dominated_by']}" if row["dominated_by"] else "?"


def draw(found: dict[str, Any], path: Path) -> None:
    """Plots accuracy against latency: the front, what is behind it, and the budget."""
    if (figure := new_figure(path)) is None:
        return
    axes = figure.subplots()
    known = [row for row in found["candidates"] if row["accuracy"]]
    for label, rows in (
        ("front", [row for row in known if row["front"]]),
        ("behind it", [row for row in known if not row["front"]]),
    ):
        points = [[row["milliseconds"] for row in rows], [row["accuracy"]["value"] for row in rows]]
        axes.plot(*points, "o-" if label == "front" else ".", label=label, drawstyle="steps-post")
    for row in known:
        if row["front"]:
            place = (row["milliseconds"], row["accuracy"]["value"])
            axes.annotate(row["name"], place, xytext=(4, -10), textcoords="offset points", fontsize=7)
    if unknown := [row["milliseconds"] for row in found["candidates"] if not row["accuracy"]]:
        axes.plot(unknown, [0] * len(unknown), "|k", transform=axes.get_xaxis_transform(), label="accuracy unknown")
    if found["budget_ms"] is not None:
        axes.axvline(found["budget_ms"], color="gray", linestyle=":", label="budget")
    axes.margins(y=0.15)
    axes.set(xlabel="milliseconds an image", ylabel=found["metric"], xlim=(0, None))
    axes.set_title(f"{found['data']}, {found['device']}")
    axes.legend()
    figure.savefig(path, dpi=120)


def check_folder(path: str | Path) -> None:
    """Raises UserError where a folder cannot be created, before long work; leaves none behind that was not there."""
    path = Path(path)
    new = [one for one in (path, *path.parents) if not one.exists()]
    make_folder(path)
    for one in new:
        with suppress(OSError):  # another program has written into it
            one.rmdir()
