"""Accuracies that are known without training: the paper's, and those of docs/evidence.md."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from divdet.commands.timed_networks import TimedNetwork

# Written by `python -m benchmarks.evidence.known`
FILE = Path(__file__).with_suffix(".json")
PAPER = "paper"
METRIC = {"cls": "top1", "det": "AP"}


@dataclass(frozen=True)
class Accuracy:
    """An accuracy.

    Attributes:
        value: top-1 in percent, or AP in 0…1.
        source: where it comes from.
        std: standard deviation over ``runs``; None where that is not known.
    """

    value: float
    source: str
    std: float | None = None
    runs: int | None = None


@dataclass(frozen=True)
class Known:
    """What is known of a network: accuracies of one data set and one recipe of training can be compared."""

    data: str
    recipe: str
    network: TimedNetwork
    accuracy: Accuracy


def known_accuracies() -> list[Known]:
    """All entries: the paper's first, then those of the evidence."""
    return [_known(entry) for entry in json.loads(FILE.read_text(encoding="utf-8"))]


def _known(entry: dict[str, Any]) -> Known:
    network = TimedNetwork(*(entry[key] for key in ("backbone", "members", "classes", "image_size", "head", "form")))
    accuracy = Accuracy(entry["accuracy"], entry["source"], entry.get("std"), entry.get("runs"))
    return Known(entry["data"], entry["recipe"], network, accuracy)
