"""The inspect-data command: checks a data set and says what it is like, as text and as a page."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from detection.data.annotations import NAMES, Split
from detection.data.check import DataCheck
from detection.data.faults import DataError, write_faults
from detection.data.formats.read import Known
from detection.data.prepare import FAULTS, check_data, named_splits
from detection.data.remarks import enough, remarks, unmet_at
from detection.data.statistics import SIZES, Statistics, describe, span
from detection.heads import find_head, input_of
from detection.visual.data_page import data_page
from divdet.commands.data_settings import InspectData
from divdet.engine.errors import UserError, printable
from divdet.engine.files import make_folder, write_text

_CLASSES = 20  # that are printed


def inspect_data(config: InspectData) -> dict[Split, Statistics]:
    """Checks and describes the splits that ``config.data`` names; writes inspect.html and faults.txt.

    Returns:
        The numbers of each split that could be read.

    Raises:
        DataError: for faults of the data, when both files are written.
        UserError: for settings that cannot be used.
    """
    data = config.data
    known = Known()
    named = named_splits(data, known)
    if not named:
        raise UserError("data.train_annotations is not set: give the data as --data.train_annotations or --data.path")
    folder = make_folder(config.output)
    check = check_data(data, named, data.check, known)
    form, plan = input_of(config.model.head, config.model.input_size), find_head(config.model.head).boxes
    numbers = {split: describe(annotations, check.facts, form, plan) for split, annotations in check.splits.items()}
    lines = remarks(check, numbers)
    write_faults(check.faults, folder / FAULTS)
    sources = [f"{NAMES[split]}: {held.path}" for split, held in check.splits.items()]
    write_text(data_page(check, numbers, lines, sources, form), folder / "inspect.html")
    for line in _report(check, numbers, lines):
        print(printable(line))
    print(f"wrote {folder / 'inspect.html'} and {folder / FAULTS}")
    if check.faults:
        raise DataError(check.faults, folder / FAULTS)
    return numbers


def _report(check: DataCheck, numbers: Mapping[Split, Statistics], lines: Sequence[str]) -> list[str]:
    text = []
    for split, own in numbers.items():
        text += _split(split, own, check.splits[split].path)
    if lines:
        text += ["worth a look", *(f"  - {line}" for line in lines)]
    return text


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}"


def _split(split: Split, own: Statistics, path: Path) -> list[str]:
    text = [
        f"{NAMES[split]}: {path}",
        f"  images: {own.images:,} ({own.empty:,} without objects); objects: {own.objects:,}; crowds: {own.crowds:,}; "
        f"classes: {len(own.classes)}",
    ]
    if own.image_sizes:
        widths, heights = zip(*own.image_sizes, strict=True)
        shapes = ", ".join(f"{count:,} {shape}" for shape, count in own.shapes.items())
        size = f"{span(widths)} x {span(heights)} pixels"
        text.append(f"  images of {size}: {shapes}; {own.turned:,} rotated by EXIF")
    if not own.objects:
        return text
    text.append(f"  {own.objects / own.images:.1f} objects an image, {own.most} at most")
    for where, sizes in (("the images", own.sizes), (f"{own.input_size} input pixels", own.input_sizes)):
        total = max(sum(sizes), 1)
        shares = ", ".join(f"{count / total:.0%} {size}" for size, count in zip(SIZES, sizes, strict=True))
        text.append(f"  objects in {where}: {shares}")
    if own.smallest:
        small = own.smallest[0]
        sides = "{:.0f} x {:.0f} pixels, which become {:.1f} x {:.1f}".format(*small.sides, *small.input_sides)
        text.append(f"  the smallest: {small.name} in {small.record.file_name}, {sides}")
    if own.needed:
        met = f"  {own.unmet:.1%} of the objects meet no default box at IoU 0.5 in {own.input_size} input pixels"
        size = enough(own)
        larger = f"; {unmet_at(own, size):.1%} if they were {size / own.input_size:.1f} times as large"
        text.append(met + (larger if size > own.input_size else ""))
    order = sorted(own.classes, key=lambda kind: -kind.objects)
    width = max(len(kind.name) for kind in order[:_CLASSES])
    text.append(f"  {'class':{width}}  objects   images  median side in input px  meet no default box")
    for kind in order[:_CLASSES]:
        measured = f"{kind.input_side:24.0f}  {_share(kind.unmet):>19}" if kind.objects else f"{'–':>24}  {'–':>19}"
        text.append(f"  {kind.name:{width}}  {kind.objects:7,}  {kind.images:7,}  {measured}")
    if len(order) > _CLASSES:
        text.append(f"  … and {len(order) - _CLASSES} classes with fewer objects")
    return text
