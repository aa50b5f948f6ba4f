"""What a look at the numbers of a data set should lead to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detection.data.annotations import NAMES, Split
from detection.data.check import DataCheck
from detection.data.statistics import Statistics
from divdet.engine.words import counted

_FEW = 20  # objects of a class in the training split
_IMBALANCE = 10  # times as many objects of one class as of another
_CROWDED = 0.2  # share of boxes; Pascal VOC's difficult ones are 15%
_UNMET = 0.1  # share of objects
_FEW_TO_EVALUATE = 100  # objects of the validation split
_SHIFT = 2  # times the share of a class in the other split
_EXPECTED = 5  # objects that the validation split should hold for a shift to count
_LISTED = 5


def remarks(check: DataCheck, statistics: Mapping[Split, Statistics]) -> list[str]:
    """Sentences, the gravest first; the notes of the check and what reading has changed come last."""
    found: list[str] = []
    training, validation = statistics.get("train"), statistics.get("val")
    if validation and not validation.objects:
        found.append("validation has no object: there is no AP to measure, and best.pt is the newest epoch's")
    if training and validation:
        found += _unlearned(training, validation)
    if training:
        found += _classes(training)
    for split, numbers in statistics.items():
        found += _crowds(split, numbers) + _sizes(split, numbers)
    if training and validation:
        found += _shifts(training, validation)
    if validation and 0 < validation.objects < _FEW_TO_EVALUATE:
        found.append(
            f"validation has {counted(validation.objects, 'object')}: its AP changes by several points by chance alone"
        )
    found += check.notes
    for split, held in check.splits.items():
        found += [f"{NAMES[split]}: {remark}" for remark in held.remarks()]
    return found


def shift(training: Statistics, validation: Statistics, label: int) -> float:
    """How many times as frequent a class is in validation as in training; 0 or infinity where one has none of it."""
    own, other = (numbers.classes[label].objects / max(numbers.objects, 1) for numbers in (training, validation))
    return other / own if own else float("inf") if other else 1.0


def _unlearned(training: Statistics, validation: Statistics) -> list[str]:
    pairs = zip(training.classes, validation.classes, strict=False)
    missing = [other.name for own, other in pairs if other.objects and not own.objects]
    return [f"classes of validation without any training object: {_some(missing)}"] if missing else []


def _classes(training: Statistics) -> list[str]:
    found = []
    # Ascending; pairs, since two classes may have one name.
    used = sorted((kind.objects, kind.name) for kind in training.classes if kind.objects)
    few = [f"{name} ({count})" for count, name in used if count < _FEW]
    if few:
        listed = _some(few)
        found.append(f"classes with fewer than {_FEW} training objects: {listed}")
    if used and used[-1][0] >= _IMBALANCE * used[0][0]:
        (fewest, least), (most_objects, most) = used[0], used[-1]
        ratio = most_objects / fewest
        found.append(f"imbalance: {ratio:.0f} times as many objects of {most} as of {least} in training")
    return found


def _crowds(split: Split, numbers: Statistics) -> list[str]:
    share = numbers.crowds / max(numbers.crowds + numbers.objects, 1)
    if share < _CROWDED:
        return []
    what = "of the boxes are crowds (iscrowd 1, VOC's difficult), which are neither learned nor scored"
    return [f"{NAMES[split]}: {share:.0%} {what}; some tools set iscrowd for every mask: is it meant?"]


def _sizes(split: Split, numbers: Statistics) -> list[str]:
    if numbers.unmet < _UNMET:
        return []
    text = f"{NAMES[split]}: {numbers.unmet:.0%} of the objects meet no default box at IoU 0.5 in "
    text += f"{numbers.input_size} input pixels"
    if size := enough(numbers):
        times = size / numbers.input_size
        text += f"; it would be {unmet_at(numbers, size):.0%} if objects were {times:.1f} times as large"
    return [text + " (photos cut into tiles make them larger; docs/heads.md compares heads)"]


def enough(numbers: Statistics) -> int:
    """The smallest input at which fewer than a tenth of the objects meet no default box; 0 where there is none."""
    sizes = sorted(size for size in numbers.needed if size)
    return next((size for size in sizes if unmet_at(numbers, size) < _UNMET), 0)


def unmet_at(numbers: Statistics, size: int) -> float:
    """The share of objects that meet no default box at any input up to ``size``."""
    return max(0.0, 1 - sum(share for needed, share in numbers.needed.items() if 0 < needed <= size))


def _shifts(training: Statistics, validation: Statistics) -> list[str]:
    found = []
    for label, (own, other) in enumerate(zip(training.classes, validation.classes, strict=False)):
        times = shift(training, validation, label)
        expected = own.objects / max(training.objects, 1) * validation.objects
        if own.objects and max(expected, other.objects) >= _EXPECTED and not 1 / _SHIFT <= times <= _SHIFT:
            found.append((abs(other.objects - expected), f"{own.name} ({times:.1f} times)"))
    listed = _some([text for _, text in sorted(found, reverse=True)])
    return [f"classes more or less frequent in validation than in training: {listed}"] if found else []


def _some(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
