"""The Pareto front of latency and accuracy, and what to take of it."""

from __future__ import annotations

from typing import Any

from divdet.engine.words import counted

Row = dict[str, Any]
_STEADY = 1.3  # a machine whose speed moves by less


def mark_front(rows: list[Row]) -> None:
    """Sets ``front`` and ``dominated_by`` of rows with ``milliseconds`` and ``accuracy`` (with a ``value``, or None).

    A row is on the front if no other is as fast and as accurate and better in one of the two. Otherwise
    ``dominated_by`` is the ``name`` of the fastest row of the front that is. Rows without accuracy are neither.
    """
    known = [row for row in rows if row["accuracy"]]
    for row in rows:
        row["front"] = row in known and not any(_dominates(other, row) for other in known)
    front = sorted((row for row in known if row["front"]), key=lambda row: row["milliseconds"])
    for row in rows:
        better = [other["name"] for other in front if row["accuracy"] and _dominates(other, row)]
        row["dominated_by"] = better[0] if better else None


def _dominates(one: Row, other: Row) -> bool:
    faster = other["milliseconds"] - one["milliseconds"]
    better = one["accuracy"]["value"] - other["accuracy"]["value"]
    return faster >= 0 and better >= 0 and (faster > 0 or better > 0)


def choose(rows: list[Row], budget: float | None) -> Row | None:
    """The most accurate row of the front within the budget, in ms."""
    inside = [row for row in rows if row["front"] and (budget is None or row["milliseconds"] <= budget)]
    return max(inside, key=lambda row: row["accuracy"]["value"], default=None)


def digits(number: float) -> str:
    """Three digits, or from 1,000 on all of a whole number's."""
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"


def advice(found: dict[str, Any]) -> str:
    """What to take, in a sentence or two, from what ``plan.json`` holds."""
    rows, budget, metric = found["candidates"], found["budget_ms"], found["metric"]
    cheapest = min(rows, key=lambda row: row["milliseconds"])
    moved = f" Uncertain: the machine's speed moved by a factor of {found['drift']:.2f} meanwhile; measure again."
    unsure = moved if found["drift"] > _STEADY else ""
    cost = f"{cheapest['name']} at {digits(cheapest['milliseconds'])} ms"
    if budget is not None and cheapest["milliseconds"] > budget:
        return f"Nothing is within {budget:g} ms: the cheapest is {cost}.{unsure}"
    within = "Whatever the time," if budget is None else f"Within {budget:g} ms"
    front = sorted((row for row in rows if row["front"]), key=lambda row: row["milliseconds"])
    best = choose(rows, budget)
    if best:
        text = f"{within} take {_said(best, metric)}{_how(best)}."
    else:
        text = f"{within} no accuracy is known; the cheapest is {cost}."
    if level := [row for row in front if best and row is not best and _level(row, best)]:
        text += f" Level with it, within its ±: {_said(level[0], metric)}."
    if dearer := [row for row in front if best is None or row["milliseconds"] > best["milliseconds"]]:
        text += f" The next on the front is {_said(dearer[0], metric)}."
    unknown = len({(row["backbone"], row["members"], row["head"]) for row in rows if not row["accuracy"]})
    if unknown:
        text += f" Of {counted(unknown, 'network')} the accuracy is unknown: train what fits, and give --runs."
    return text + unsure


def _level(cheaper: Row, best: Row) -> bool:
    """Whether a cheaper row's accuracy differs from the best one's by no more than their standard deviations."""
    within = max(row["accuracy"]["std"] or 0 for row in (cheaper, best))
    return 0 <= best["accuracy"]["value"] - cheaper["accuracy"]["value"] <= within


def _said(row: Row, metric: str) -> str:
    return f"{row['name']}: {metric} {row['accuracy']['value']:.4g} at {digits(row['milliseconds'])} ms"


def _how(row: Row) -> str:
    """The options of eval and prediction that run it so."""
    words = [f"--{key} {row[key]}" for key in ("runtime", "concurrency") if row[key] not in ("torch", "sequential")]
    return f" ({' '.join(words)})" if words else ""
