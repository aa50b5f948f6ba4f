"""The check of a data set before it is used: all its faults at once, and what is worth a note."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np

from detection.data.annotations import CocoAnnotations, Columns, ImageRecord
from detection.data.coco import check_same_categories
from detection.data.faults import DataError, DataFault
from detection.data.formats.layouts import find_splits
from detection.data.formats.read import read_annotations
from detection.data.image_index import ImageFacts, index_images
from detection.settings import EvalDataSettings
from divdet.engine.errors import UserError

Split = Literal["train", "val"]
NAMES: dict[Split, str] = {"train": "training", "val": "validation"}

# A photo of 14 of 16 bits is at most a quarter as bright as one of all 16.
_DARK_BITS = 14


@dataclass
class DataCheck:
    """What the check of one or two splits found.

    Attributes:
        splits: the sound part of each split that could be read.
        facts: what each image file is like; empty where images were not checked.
        faults: all of them.
        left_out: how many entries and images are missing from ``splits``, by kind.
        notes: what is no fault, but worth knowing.
        copies: for each split its groups of image files with the same pixels.
        shared: image files (training, validation) with the same pixels.
        complete: whether ``splits`` can be used in spite of the faults: every annotation file could be read.
    """

    splits: dict[Split, CocoAnnotations] = field(default_factory=dict)
    facts: dict[Path, ImageFacts] = field(default_factory=dict)
    faults: list[DataFault] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    copies: dict[Split, list[list[Path]]] = field(default_factory=dict)
    shared: list[tuple[Path, Path]] = field(default_factory=list)
    complete: bool = True

    def leave_out(self, kind: str, faults: Sequence[DataFault]) -> None:
        """Notes faults, each of which one entry or image less answers."""
        self.faults += faults
        self.left_out += Counter({kind: len(faults)})


def check_data(data: EvalDataSettings, wanted: Iterable[Split], images: bool = True) -> DataCheck:
    """Reads splits, and decodes all their images unless ``images`` is false.

    Raises:
        UserError: for settings that cannot be used. Faults of the data are returned.
    """
    check = DataCheck()
    for split in wanted:
        _read(data, split, check)
    if len(check.splits) == 2:
        training, validation = check.splits["train"], check.splits["val"]
        try:
            check_same_categories(training.category_ids, training.names, validation)
        except UserError as error:
            check.faults.append(_fault_of(error))
            check.complete = False
    if images:
        records = [record for split in check.splits.values() for record in split.images]
        check.facts = index_images(record.path for record in records)
        for split, annotations in check.splits.items():
            check.splits[split] = _check_images(split, annotations, check)
        if len(check.splits) == 2:
            _find_shared(check)
    return check


def named_splits(data: EvalDataSettings) -> list[Split]:
    """The splits that the settings name."""
    found = {split for split in NAMES if getattr(data, f"{split}_annotations")}
    if data.path:
        found |= {name or "train" for name in find_splits(data.path, data.format, None)}
    if data.val_fraction is not None:
        found |= set(NAMES)
    return [split for split in NAMES if split in found]


def _read(data: EvalDataSettings, split: Split, check: DataCheck) -> None:
    faults: list[DataFault] = []
    try:
        check.splits[split] = read_annotations(data, split, faults=faults)
    except DataError as error:
        faults += error.faults
        check.complete = False
    except UserError as error:
        faults.append(_fault_of(error))
        check.complete = False
    # With data.val_fraction both splits come from the same file.
    check.leave_out(f"faulty {NAMES[split]} entries", [fault for fault in faults if fault not in check.faults])


def _fault_of(error: UserError) -> DataFault:
    """An error as a fault of the file that it begins with; raises the error where it is about the settings."""
    file, _, what = str(error).partition(": ")
    if str(error).startswith("data.") or not what:
        raise error
    return DataFault(file, "", what)


def _check_images(split: Split, annotations: CocoAnnotations, check: DataCheck) -> CocoAnnotations:
    """Notes the faults of a split's images; returns the split without them."""
    broken: dict[Path, str] = {}
    other_size: dict[Path, str] = {}
    for record in annotations.images:
        facts = check.facts[record.path]
        annotated = (record.width, record.height)
        if facts.fault:
            broken[record.path] = facts.fault
        elif all(annotated) and annotated not in (facts[:2], facts.upright):
            width, height = facts.upright if record.upright else facts[:2]
            other_size[record.path] = (
                f"the image has {width}x{height} pixels, but its annotations say {annotated[0]}x{annotated[1]}; "
                "use the images that were annotated"
            )
    for kind, found in (("that cannot be decoded", broken), ("of another size than annotated", other_size)):
        faults = [DataFault(str(path), "", what) for path, what in found.items()]
        check.leave_out(f"{NAMES[split]} images {kind}", faults)
    groups = _by_content(annotations.images, check.facts)
    check.copies[split] = copies = [paths for paths in groups.values() if len(paths) > 1]
    if copies:
        more = sum(map(len, copies)) - len(copies)
        pair = f"{copies[0][0]} and {copies[0][1]}"
        check.notes.append(f"{NAMES[split]}: {more} images are copies of others, with the same pixels: {pair}")
    dark = {path: facts.bits for path, facts in _facts_of(annotations, check).items() if 8 < facts.bits <= _DARK_BITS}
    if dark:
        check.notes.append(
            f"{NAMES[split]}: {len(dark)} images of 16 bits use {max(dark.values())} of them at most, so they are read "
            f"almost black: stretch their values to 16 bits; the first is {next(iter(dark))}"
        )
    return without(annotations, broken.keys() | other_size.keys())


def _facts_of(annotations: CocoAnnotations, check: DataCheck) -> dict[Path, ImageFacts]:
    return {record.path: check.facts[record.path] for record in annotations.images}


def _by_content(records: Iterable[ImageRecord], facts: dict[Path, ImageFacts]) -> dict[str, list[Path]]:
    """The files of images with the same pixels, by digest; a file that is listed twice counts once."""
    groups: dict[str, dict[Path, None]] = defaultdict(dict)
    for record in records:
        if digest := facts[record.path].digest:
            groups[digest][record.path] = None
    return {digest: list(paths) for digest, paths in groups.items()}


def _find_shared(check: DataCheck) -> None:
    """Images of the training split that the validation split has too are faults: its AP would be too good.

    Where both splits are the same files that is meant, to see whether a model can learn them.
    """
    training, validation = (check.splits[split] for split in ("train", "val"))
    own, other = (_by_content(annotations.images, check.facts) for annotations in (training, validation))
    check.shared = [(path, other[digest][0]) for digest, paths in own.items() if digest in other for path in paths]
    if not check.shared:
        return
    files = [{path.resolve() for paths in groups.values() for path in paths} for groups in (own, other)]
    if files[0] == files[1]:
        check.notes.append("validation has the same images as training: its AP says nothing about other images")
        return
    faults = [
        DataFault(str(path), "", f"is a training image, and validation has the same as {same}; keep it in one of them")
        for path, same in check.shared
    ]
    check.leave_out("training images that validation has too", faults)
    check.splits["train"] = without(training, {path for path, _ in check.shared})


def without(annotations: CocoAnnotations, paths: Iterable[Path]) -> CocoAnnotations:
    """The annotations without the images of these files."""
    dropped = set(paths)
    if not dropped:
        return annotations
    kept = np.array([record.path not in dropped for record in annotations.images], bool)
    places = np.cumsum(kept) - 1
    truth, rows = annotations.truth, kept[annotations.truth.image]
    columns = {column.name: getattr(truth, column.name)[rows] for column in fields(Columns)}
    columns["image"] = places[columns["image"]]
    images = [record for record in annotations.images if record.path not in dropped]
    return replace(annotations, images=images, truth=Columns(**columns))
