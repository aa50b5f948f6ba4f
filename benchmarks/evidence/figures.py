"""The figures of docs/evidence.md by name: what a run's result file says, and what the runs of a row say together."""

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.evidence.rows import METRIC
from detection.data.coco_json import read_json
from divdet.engine.errors import UserError

Result = dict[str, Any]
LATENCY_KEYS = ("task", "backbone", "classes", "image_size", "stem", "members", "how", "batch_size")
COSTS = {"params": 1e6, "gflops": 1}
DIGITS = {"cls": 2, "det": 3}
AT_WIDTH = re.compile(r"(?P<family>\w+)_w(?P<width>\d+)_s(?P<members>\d+)")  # names of rows at several widths


def value(result: Result, name: str) -> float | None:
    """A figure of one run; None where it has none.

    Args:
        result: of a result file.
        name: ``members``, the mean of the members' top-1 (%) or AP; ``best``, the best member's; ``gain``, what the
            ensemble has above that; ``params`` (millions) and ``gflops``; ``minutes``; or a metric of
            eval_cls.py or eval_det.py, a rule of ensemble, or a way of fusion.
    """
    metrics, main = result["metrics"], METRIC[result["task"]]
    members = [member[main] for member in metrics["members"]]
    made = {"members": np.mean(members), "best": max(members), "gain": metrics[main] - max(members)}
    if name in made:
        return float(made[name]) if len(members) > 1 else None
    if name in COSTS:
        return result["cost"][name] / COSTS[name]
    if name == "minutes":
        return result["minutes"]
    if name in metrics:
        return metrics[name]
    return metrics["combine"][name] if result["task"] == "cls" else result["fusion"][name]["AP"]


def spread(values: list[float], digits: int) -> str:
    """Mean ± standard deviation; of one value, itself; – of none."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else "–"
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def interval(differences: list[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean by Student's t; None of fewer than two values, or of equal ones."""
    if len(differences) < 2 or np.ptp(differences) == 0:
        return None
    half = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
    return float(np.mean(differences) - half), float(np.mean(differences) + half)


class Figures:
    """All results of a protocol.

    Attributes:
        rows: results by row, in the order of names and seeds.
        wholes: by row, that of the undivided network that it is compared with.
        latencies: milliseconds of a batch as latency.py measured them, by ``LATENCY_KEYS``.
    """

    def __init__(self, folder: Path, wholes: dict[str, str]):
        self.wholes = wholes
        self.rows: dict[str, list[Result]] = {}
        for path in sorted(folder.glob("*-*.json")):
            result = read_json(path)
            if not isinstance(result, dict) or "row" not in result:
                raise UserError(f"{path}: not a result of benchmarks.evidence.run")
            self.rows.setdefault(result["row"], []).append(result)
            if _differ(result["recipe"], self.rows[result["row"]][0]["recipe"]):
                raise UserError(f"{path}: of another recipe than other runs of its row: train them again")
        timed = folder / "latency.json"
        lines = read_json(timed)["lines"] if timed.exists() else []
        self.latencies = {tuple(line[key] for key in LATENCY_KEYS): line["milliseconds"] for line in lines}

    def of(self, row: str) -> list[Result]:
        """The runs of a row; UserError where there are none."""
        if row not in self.rows:
            raise UserError(f"no results of {row}: train it, or leave it out of conclusions.md")
        return self.rows[row]

    def widths(self) -> dict[str, dict[int, dict[int, str]]]:
        """The rows at several widths: names by family, width and S."""
        found: dict[str, dict[int, dict[int, str]]] = {}
        for row in self.rows:
            if named := AT_WIDTH.fullmatch(row):
                widths = found.setdefault(named["family"], {})
                widths.setdefault(int(named["width"]), {})[int(named["members"])] = row
        return {family: dict(sorted(widths.items())) for family, widths in found.items()}

    def values(self, row: str, name: str) -> list[float]:
        """A figure of every run that has it."""
        found = (value(result, name) for result in self.of(row))
        return [one for one in found if one is not None]

    def average(self, row: str, name: str | None = None) -> float:
        """A figure's mean over the runs; default: top-1 or AP."""
        return float(np.mean(self.values(row, name or METRIC[self.of(row)[0]["task"]])))

    def mean(self, row: str, name: str, digits: int | None = None) -> str:
        """A figure's mean ± standard deviation over the runs."""
        values = self.values(row, name)
        return spread(values, DIGITS[self.of(row)[0]["task"]] if digits is None else digits)

    def span(self, pattern: str, name: str, digits: int | None = None, tasks: str = "cls det") -> str:
        """The lowest to the highest of all runs whose row matches."""
        rows = [row for row, found in self.rows.items() if fnmatchcase(row, pattern) and found[0]["task"] in tasks]
        values = [one for row in rows for one in self.values(row, name)]
        digits = DIGITS[self.rows[rows[0]][0]["task"]] if digits is None else digits
        return f"{min(values):.{digits}f} to {max(values):.{digits}f}"

    def above(self, row: str) -> str:
        """By how much a row's top-1 or AP is above its undivided network's: see ``difference``."""
        whole = self.wholes[row]
        return "–" if whole == row or whole not in self.rows else self.difference(row, whole)

    def differences(self, row: str, other: str, name: str | None = None, other_name: str | None = None) -> list[float]:
        """A row's figure less another row's, run by run: of the same seed, which has drawn the same images for both."""
        name = name or METRIC[self.of(row)[0]["task"]]
        theirs = {result["seed"]: value(result, other_name or name) for result in self.of(other)}
        pairs = [(value(result, name), theirs.get(result["seed"])) for result in self.of(row)]
        return [own - their for own, their in pairs if own is not None and their is not None]

    def difference(
        self, row: str, other: str, name: str | None = None, other_name: str | None = None, scale: float = 1.0
    ) -> str:
        """The mean of ``differences``, times ``scale``, with its 95 % interval over runs (paired, Student's t)."""
        found = [scale * one for one in self.differences(row, other, name, other_name)]
        if not found:
            return "–"
        digits = DIGITS[self.of(row)[0]["task"]]
        text = f"{np.mean(found):+.{digits}f}"
        if bounds := interval(found):
            text += f" ({bounds[0]:+.{digits}f} to {bounds[1]:+.{digits}f})"
        return text

    def times(self, row: str, other: str, name: str) -> str:
        """How many times another row's figure a row's is."""
        ours, theirs = (np.mean(self.values(one, name)) for one in (row, other))
        return f"{ours / theirs:.1f} times"

    def relative(self, row: str, name: str, other: str | None = None) -> str:
        """A figure as part of another row's (default: of its undivided network's), less 1, in percent."""
        ours, theirs = (np.mean(self.values(one, name)) for one in (row, other or self.wholes[row]))
        return f"{100 * (ours / theirs - 1):+.0f} %"

    def over_images(self, row: str, other: str | None = None) -> str:
        """The 95 % interval of a detector's difference over images: percentiles of the bootstrap, the same draws.

        Runs of a row are averaged before, so what runs differ by is in it as little as their number allows.

        Args:
            row: of the detector.
            other: row that it is compared with; default: S=1.
        """
        other = other or self.wholes[row]
        if other == row or other not in self.rows:
            return "–"
        ours, theirs = (np.mean([r["resampled_AP"] for r in self.of(one)], axis=0) for one in (row, other))
        return _percentiles(ours - theirs)

    def fusion_over_images(self, row: str, way: str = "nms") -> str:
        """The like interval of what the recipe's fusion has above another way of fusion."""
        runs = self.of(row)
        ours = np.mean([r["resampled_AP"] for r in runs], axis=0)
        return _percentiles(ours - np.mean([r["fusion"][way]["resampled_AP"] for r in runs], axis=0))

    def latency(self, result: Result) -> float:
        """Milliseconds of one image the fastest way, in sequence or at once; NaN where it was not measured."""
        facts = (*[result["cost"][key] for key in LATENCY_KEYS[:5]], result["members"])
        found = [time for key, time in self.latencies.items() if key[:6] == facts and key[-1] == 1]
        return min(found, default=np.nan)

    def ms(self, row: str) -> str:
        """`latency` of a row's network."""
        return f"{self.latency(self.of(row)[0]):.3g}"


def _differ(recipe: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> bool:
    """Whether a setting differs. One that only newer results have came after the older runs."""
    known = ((part, key) for part in recipe.keys() & other.keys() for key in recipe[part].keys() & other[part].keys())
    return any(recipe[part][key] != other[part][key] for part, key in known)


def _percentiles(differences: np.ndarray) -> str:
    low, high = np.percentile(differences, [2.5, 97.5])
    return f"{low:+.3f} to {high:+.3f}"
