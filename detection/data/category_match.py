"""The categories of a file: those that mean nothing are dropped, and the others are matched to a model's by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from detection.data.annotations import CocoAnnotations, Columns
from detection.data.entry_values import show
from divdet.engine.errors import UserError
from divdet.engine.words import named

ABSENT = "classes of the model that the file does not list, whose detections are left out"
RENUMBERED = "categories matched by name, whose ids are others than the model's"

_BACKGROUND = ("background", "__background__", "_background_")


def drop_unused(categories: list[dict[str, Any]], truth: Columns) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Drop a background, and the root that Roboflow writes (all other categories name it as ``supercategory``).

    Both only if they have no object. ``truth`` gets the labels of the categories that stay.

    Returns:
        The categories that stay, and what was dropped, shares a name, or almost does, counted.
    """
    used = set(np.unique(truth.label).tolist())
    unused = [label for label in range(len(categories)) if label not in used]
    roots = _roots(categories)
    dropped = {label for label in unused if label in roots or categories[label]["name"].casefold() in _BACKGROUND}
    if len(dropped) == len(categories):
        dropped = set()
    kept = [label for label in range(len(categories)) if label not in dropped]
    truth.label = np.searchsorted(kept, truth.label)
    gone = [categories[label]["name"] for label in sorted(dropped)]
    counts = Counter()
    if gone:
        counts[f"categories without objects dropped as root or background ({named(gone)})"] = len(gone)
    repeated = [name for name, count in Counter(categories[label]["name"] for label in kept).items() if count > 1]
    if repeated:
        counts[f"names of several categories, which stay separate classes ({named(repeated)})"] = len(repeated)
    spellings: dict[str, dict[str, None]] = {}  # dicts keep the order
    for label in kept:
        name = categories[label]["name"]
        spellings.setdefault(" ".join(re.split(r"[\s_-]+", name.casefold())), {})[name] = None
    pairs = (names for spelling, names in spellings.items() if len(names) > 1 and len(spelling) > 1)  # not A and a
    alike = [name for names in pairs for name in names]
    if alike:
        what = f"class names that differ in case, spaces, - or _ alone, which stay separate ({named(alike)})"
        counts[what] = len(alike)
    return [categories[label] for label in kept], counts


def _roots(categories: list[dict[str, Any]]) -> set[int]:
    """The labels of those that all others, and not they themselves, name as ``supercategory``."""
    below = Counter(parent for entry in categories if isinstance(parent := entry.get("supercategory"), str))
    return {
        label
        for label, entry in enumerate(categories)
        if below[entry["name"]] == len(categories) - 1 > 0 and entry.get("supercategory") != entry["name"]
    }


def match_categories(
    category_ids: Sequence[int | None], names: Sequence[str], annotations: CocoAnnotations
) -> CocoAnnotations:
    """Give annotations the labels of a model, matching categories by name (and id, where names repeat).

    The file's ids stay, for results to carry: see ``CocoAnnotations.category_ids``. The file may have fewer classes.

    Args:
        category_ids: the model's, by label.
        names: the model's, by label.

    Returns:
        The same object if it has the model's categories, else a copy with other labels.

    Raises:
        UserError: for classes that the model does not have; it lists them.
    """
    if list(category_ids) == annotations.category_ids and list(names) == annotations.names:
        return annotations
    ids = dict(zip(zip(category_ids, names, strict=True), range(len(names)), strict=True))
    repeated = {name for side in (names, annotations.names) for name, count in Counter(side).items() if count > 1}
    by_name = {name: label for label, name in enumerate(names) if name not in repeated}
    file = list(zip(annotations.category_ids, annotations.names, strict=True))
    labels = [ids.get(category, by_name.get(category[1])) for category in file]
    unknown = [name for (_, name), label in zip(file, labels, strict=True) if label is None]
    if unknown:
        listed = ", ".join(map(show, unknown))
        raise UserError(
            f"{annotations.path}: {len(unknown)} of its {len(file)} categories are not among the model's {len(names)} "
            f"({named(list(names))}): {listed}; rename or remove them, or train with them"
        )
    new = np.array(labels, np.int64)
    matched: list[int | None] = [None] * len(names)
    for (number, _), label in zip(file, labels, strict=True):
        matched[label] = number
    counts = Counter(annotations.counts)
    counts[RENUMBERED] += sum(number not in (own, None) for number, own in zip(matched, category_ids, strict=True))
    counts[ABSENT] += matched.count(None)
    images = [replace(image, labels=new[image.labels]) for image in annotations.images]
    truth = replace(annotations.truth, label=new[annotations.truth.label])
    changed = {"images": images, "category_ids": matched, "names": list(names), "counts": +counts, "truth": truth}
    return replace(annotations, **changed)
