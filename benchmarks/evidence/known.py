"""Writes divdet/commands/known_accuracies.json, which `divdet plan` joins: the paper's tables, and our results' means.

    python -m benchmarks.evidence.known     # after new results; the paper's rows need ../shared, or $DIVDET_SHARED

Without the paper's tables its rows stay as they are in the file.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence.figures import DIGITS, Figures
from benchmarks.evidence.rows import METRIC, PROTOCOLS, ROWS
from classification.backbones.registry import DATASETS
from divdet.commands.known_accuracies import FILE, PAPER
from divdet.engine.cli import run
from divdet.engine.files import write_text

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
Entry = dict[str, Any]
# Names of the paper's networks that are others here
_NAMES = {"pyramidnet272_shakedrop": "pyramidnet272", "se_resnext101_64x4d": "se_resnext101_64x4d_B"}


def of_paper(tables: dict[str, list[Entry]]) -> list[Entry]:
    """The accuracies of Tables II, III, IV and IX: other tables vary one network's training."""

    def entry(table: str, data: str, recipe: str, row: Entry, members: int, accuracy: float, size: int) -> Entry:
        name = row.get("network") or row["backbone"]
        facts = DATASETS.get(data)
        return {
            "task": "cls" if facts else "det",
            "data": data,
            "recipe": f"{PAPER}, {recipe}",
            "backbone": _NAMES.get(name, name),
            "members": members,
            "classes": facts.num_classes if facts else 80,
            "image_size": size,
            "head": None if facts else "ssd300",
            "form": facts.form if facts else "imagenet",
            "accuracy": round(accuracy, 4),
            "source": f"{PAPER}, Table {table}",
        }

    found = []
    for row in tables["table2_cifar100"]:
        for members, one in row["by_S"].items():
            recipe = f"{row.get('epochs', 300)} epochs"
            found.append(entry("II", "cifar100", recipe, row, int(members), 100 - one["err"], 32))
    for row in tables["table3_cifar10"]:
        for epochs in (300, 1800):
            if (error := row[f"err_{epochs}"]) is not None:
                found.append(entry("III", "cifar10", f"{epochs} epochs", row, row["S"], 100 - error, 32))
    for row in tables["table4_imagenet"]:
        recipe = f"{row['epochs']} epochs, {row['crop']} pixels"
        found.append(entry("IV", "imagenet", recipe, row, row["S"], row["top1"], row["crop"]))
    for row in tables["table9_coco_val2017_ssd300"]:
        found.append(entry("IX", "coco", "65 epochs", row, row["S"], row["AP"] / 100, 300))
    return found


def of_results(folder: Path = RESULTS) -> Iterator[Entry]:
    """The means of the result files' rows; rows are of one recipe where they differ in backbone and S alone."""
    groups: dict[str, list[tuple[str, list[Entry]]]] = defaultdict(list)
    for protocol in PROTOCOLS:
        for row, results in Figures(folder / protocol, {}).rows.items():
            groups[_recipe(results[0])].append((row, results))
    for rows in groups.values():
        bases = [re.sub(r"_w\d+|_s\d+$", "", row) for row, _ in rows]
        recipe = os.path.commonprefix(bases).rstrip("_") or bases[0]  # noqa: RUF071 - characters are meant
        for row, results in rows:
            if "," in results[0]["cost"]["backbone"]:  # which the planner's list of backbones cannot name
                continue
            first, task = results[0], results[0]["task"]
            values = [result["metrics"][METRIC[task]] for result in results]
            yield {
                "task": task,
                "data": _data(first),
                "recipe": recipe,
                "backbone": first["cost"]["backbone"],
                "members": first["members"],
                "classes": first["cost"]["classes"],
                "image_size": first["cost"]["image_size"],
                "head": first["recipe"]["model"].get("head", "ssd300") if task == "det" else None,
                "form": first["cost"]["stem"],
                "accuracy": round(float(np.mean(values)), DIGITS[task] + 1),
                "std": round(float(np.std(values, ddof=1)), DIGITS[task] + 1) if len(values) > 1 else None,
                "runs": len(values),
                "source": f"evidence: {row}",
            }


def _data(result: Entry) -> str:
    """The name of what is learnt: other categories of the same photos are another data set."""
    return "_".join([Path(result["data"]).stem, *(result.get("categories") or ())])


def _recipe(result: Entry) -> str:
    """What must be equal for two rows to be compared: all but the backbone and S."""
    start = re.sub(r"_s\d+$", "", result["start"] or "")
    shape = [result["cost"][key] for key in ("classes", "image_size", "stem")]
    settings = {name: part for name, part in result["recipe"].items() if name != "model"}
    others = {k: v for k, v in result["recipe"]["model"].items() if k not in ("backbone", "members")}
    return json.dumps(
        [result["task"], _data(result), result.get("images"), start, shape, settings, others], sort_keys=True
    )


def text(entries: list[Entry]) -> str:
    """JSON with an entry a line."""
    return "[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n"


def main() -> None:
    """Writes the file."""
    tables = Path(os.environ.get("DIVDET_SHARED", ROOT / "../shared")) / "reference/paper_tables.json"
    if tables.exists():
        paper = of_paper(json.loads(tables.read_text()))
    else:
        print(f"no {tables}: the paper's rows stay as they are")
        paper = [one for one in json.loads(FILE.read_text()) if one["source"].startswith(PAPER)]
    order = list(ROWS)
    results = sorted(of_results(), key=lambda one: order.index(one["source"].partition(": ")[2]))
    write_text(text([*paper, *results]), FILE)
    print(f"{FILE}: {len(paper)} of the paper, {len(results)} rows of results")


if __name__ == "__main__":
    run(main)
