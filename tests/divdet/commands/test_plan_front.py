"""The Pareto front, and what the planner advises."""

import random
from typing import Any

import pytest

from divdet.commands.plan_front import advice, choose, digits, mark_front


def row(name: str, milliseconds: float, value: float | None, members: int = 1) -> dict[str, Any]:
    accuracy = None if value is None else {"value": value, "std": None, "source": "a test"}
    network = {"backbone": name, "members": members, "head": "ssd300", "runtime": "torch", "concurrency": "sequential"}
    return {"name": name, "milliseconds": milliseconds, "accuracy": accuracy, **network}


def test_the_front_by_hand() -> None:
    rows = [
        row("a", 1, 0.5),
        row("b", 2, 0.5),
        row("c", 3, 0.7),
        row("d", 3, 0.7),
        row("e", 4, 0.6),
        row("f", 0.5, None),
    ]
    mark_front(rows)
    assert [one["name"] for one in rows if one["front"]] == ["a", "c", "d"]
    assert [one["dominated_by"] for one in rows] == [None, "a", None, None, "c", None]
    assert choose(rows, 2.5)["name"] == "a"
    assert choose(rows, None)["name"] == "c"
    assert choose(rows, 0.7) is None


def test_the_front_is_that_of_brute_force() -> None:
    draw = random.Random(0)
    rows = [row(str(i), draw.randrange(12), draw.randrange(12)) for i in range(60)]
    mark_front(rows)
    for one in rows:
        x, y = one["milliseconds"], one["accuracy"]["value"]
        others = [(other["milliseconds"], other["accuracy"]["value"]) for other in rows]
        assert one["front"] == all(a > x or b < y or (a, b) == (x, y) for a, b in others)
        assert one["front"] == (one["dominated_by"] is None)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (None, "Whatever the time, take b: AP 0.6 at 20 ms. Of 1 network the accuracy is unknown: train what fits"),
        (10, "Within 10 ms take a: AP 0.5 at 10 ms. The next on the front is b: AP 0.6 at 20 ms. Of 1"),
        (9, "Within 9 ms no accuracy is known; the cheapest is c at 5 ms. The next on the front is a: AP 0.5"),
        (1, "Nothing is within 1 ms: the cheapest is c at 5 ms."),
    ],
)
def test_what_to_take(budget: float | None, said: str) -> None:
    rows = [row("a", 10, 0.5), row("b", 20, 0.6), row("c", 5, None)]
    mark_front(rows)
    found = {"candidates": rows, "budget_ms": budget, "metric": "AP", "drift": 1.1}
    assert advice(found).startswith(said)
    assert "Uncertain" not in advice(found)
    assert advice(found | {"drift": 2.0}).endswith("moved by a factor of 2.00 meanwhile; measure again.")
    rows[1]["accuracy"]["std"] = 0.1
    level = "Level with it, within its ±: a: AP 0.5 at 10 ms."
    assert (level in advice(found)) == (budget is None)


def test_numbers_for_people() -> None:
    assert list(map(digits, (0.1349, 27.34, 999.4, 999.6, 12345))) == ["0.135", "27.3", "999", "1,000", "12,345"]
