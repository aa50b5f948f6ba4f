"""The accuracies that the planner knows: the paper's and the evidence's."""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from benchmarks.evidence import known as evidence
from divdet.commands.known_accuracies import FILE, PAPER, known_accuracies
from divdet.commands.timed_networks import TimedNetwork

ENTRIES = json.loads(FILE.read_text())


def test_the_papers_rows_are_those_of_its_tables(shared: Path) -> None:
    tables = json.loads((shared / "reference/paper_tables.json").read_text())
    assert evidence.of_paper(tables) == [one for one in ENTRIES if one["source"].startswith(PAPER)]


@pytest.mark.parametrize(
    ("table", "recipe", "network", "value"),
    [
        ("II", "300 epochs", TimedNetwork("resnet110", 2, 100, 32, form="cifar"), 81.68),
        ("II", "1800 epochs", TimedNetwork("wrn40_10", 4, 100, 32, form="cifar"), 86.9),
        ("III", "1800 epochs", TimedNetwork("wrn28_10", 4, 10, 32, form="cifar"), 98.32),
        ("IV", "120 epochs, 320 pixels", TimedNetwork("efficientnet_b7", 2, 1000, 320), 82.74),
        ("IX", "65 epochs", TimedNetwork("wrn50_3", 2, 80, 300, "ssd300"), 0.316),
    ],
)
def test_some_rows_of_the_paper_as_it_prints_them(table: str, recipe: str, network: TimedNetwork, value: float) -> None:
    (found,) = [one for one in known_accuracies() if one.network == network and one.recipe == f"paper, {recipe}"]
    assert (found.accuracy.value, found.accuracy.source) == (value, f"paper, Table {table}")


def test_the_evidences_rows_are_its_results() -> None:
    own = [one for one in ENTRIES if not one["source"].startswith(PAPER)]
    key = lambda one: one["source"]  # noqa: E731
    assert sorted(evidence.of_results(), key=key) == sorted(own, key=key), "python -m benchmarks.evidence.known"
    (found,) = [one for one in own if one["source"] == "evidence: cells50_w24_s2"]
    files = (evidence.RESULTS / "cpu").glob("cells50_w24_s2-?.json")
    values = [json.loads(file.read_text())["metrics"]["AP"] for file in files]
    assert (found["accuracy"], found["std"]) == (round(mean(values), 4), round(stdev(values), 4))


def test_accuracies_of_a_recipe_can_be_compared() -> None:
    of_recipe: dict[Any, list[TimedNetwork]] = {}
    for one in known_accuracies():
        of_recipe.setdefault((one.network.task, one.data, one.recipe), []).append(one.network)
    for networks in of_recipe.values():
        assert len(set(networks)) == len(networks)
        assert len({(one.classes, one.image_size, one.head, one.form) for one in networks}) == 1


def test_rows_of_several_widths_are_of_one_recipe(tmp_path: Path) -> None:
    for row, width, epochs in (("w16_s1", 16, 5), ("w32_s2", 32, 5), ("w32_long_s2", 32, 9)):
        result = {
            "row": row,
            "task": "cls",
            "data": "some.npz",
            "members": int(row[-1]),
            "start": None,
            "metrics": {"top1": width},
            "recipe": {
                "model": {"backbone": f"resnet10_{width}", "members": int(row[-1])},
                "train": {"epochs": epochs},
            },
            "cost": {"backbone": f"resnet10_{width}", "classes": 10, "image_size": 16, "stem": "cifar"},
        }
        (tmp_path / "cpu").mkdir(exist_ok=True)
        (tmp_path / f"cpu/{row}-0.json").write_text(json.dumps(result))
    found = {one["source"]: one["recipe"] for one in evidence.of_results(tmp_path)}
    assert found == {"evidence: w16_s1": "w", "evidence: w32_s2": "w", "evidence: w32_long_s2": "w32_long"}
