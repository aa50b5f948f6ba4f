"""The check of image files against their annotations, and of the splits against each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detection.data.annotations import NAMES, CocoAnnotations, ImageRecord, Split, part_of
from detection.data.faults import DataFault
from detection.data.file_names import version_of
from detection.data.image_index import ImageFacts, index_images

# A photo of 14 of 16 bits is at most a quarter as bright as one of all 16.
_DARK_BITS = 14


@dataclass
class DataCheck:
    """What was found in one or two splits.

    Attributes:
        splits: the sound part of each split that could be read.
        facts: what each image file is like; empty where images were not decoded.
        faults: all of them.
        left_out: how many entries and images are missing from ``splits``, by kind.
        notes: what is no fault, but worth knowing.
        copies: for each split its groups of image files with the same pixels.
        shared: image files (training, validation) with the same pixels.
        lasting: the faults that leaving entries and images out cannot mend: ``splits`` cannot be used.
    """

    splits: dict[Split, CocoAnnotations] = field(default_factory=dict)
    facts: dict[Path, ImageFacts] = field(default_factory=dict)
    faults: list[DataFault] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    copies: dict[Split, list[list[Path]]] = field(default_factory=dict)
    shared: list[tuple[Path, Path]] = field(default_factory=list)
    lasting: list[DataFault] = field(default_factory=list)

    def leave_out(self, kind: str, faults: Sequence[DataFault]) -> None:
        """Notes new faults, for each of which one entry or image is left out."""
        known = set(self.faults)
        new = [fault for fault in dict.fromkeys(faults) if fault not in known]
        self.faults += new
        self.left_out += Counter({kind: len(new)})


def check_images(check: DataCheck) -> None:
    """Decodes the images of all splits: notes their faults, copies, and what the splits share."""
    check.facts = index_images(record.path for held in check.splits.values() for record in held.images)
    for split, held in check.splits.items():
        check.splits[split] = _check_split(split, held, check)
    if len(check.splits) == 2:
        _find_shared(check)
        _note_versions(check)


def check_objects(check: DataCheck) -> None:
    """Notes a training split without any object, a fault that leaving entries out cannot mend."""
    training = check.splits.get("train")
    if training and training.images and all(record.crowd.all() for record in training.images):
        crowds = sum(len(record.crowd) for record in training.images)
        only = "; all boxes are crowds (iscrowd 1), which are not learned" if crowds else ""
        what = f"there is no object to learn from ({training.describe()}{only})"
        check.lasting.append(DataFault(str(training.path), "", what))
        check.leave_out("training splits without objects", check.lasting[-1:])


def _check_split(split: Split, annotations: CocoAnnotations, check: DataCheck) -> CocoAnnotations:
    """Notes what is wrong with a split's images; returns the split without them."""
    broken: dict[Path, str] = {}
    resized: dict[Path, str] = {}
    for record in annotations.images:
        facts = check.facts[record.path]
        annotated = (record.width, record.height)
        if facts.fault:
            broken[record.path] = facts.fault
        elif all(annotated) and annotated not in (facts[:2], facts.upright):
            width, height = facts.upright if record.upright else facts[:2]
            resized[record.path] = (
                f"the image has {width}x{height} pixels, but its annotations say {annotated[0]}x{annotated[1]}; "
                "use the images that were annotated"
            )
    for kind, found in (("that cannot be decoded", broken), ("of another size than annotated", resized)):
        faults = [DataFault(str(path), "", what) for path, what in found.items()]
        check.leave_out(f"{NAMES[split]} images {kind}", faults)
    check.copies[split] = [paths for paths in _by_content(annotations.images, check.facts).values() if len(paths) > 1]
    check.notes += _notes(split, annotations, check)
    return _without(annotations, broken.keys() | resized.keys())


def _notes(split: Split, annotations: CocoAnnotations, check: DataCheck) -> list[str]:
    notes, copies = [], check.copies[split]
    if copies:
        more = sum(map(len, copies)) - len(copies)
        pair = f"{copies[0][0]} is {copies[0][1]}"
        notes.append(f"{NAMES[split]}: {more} copies of other images, with the same pixels; the first: {pair}")
    bits = {record.path: check.facts[record.path].bits for record in annotations.images}
    dark = {path: used for path, used in bits.items() if 8 < used <= _DARK_BITS}
    if dark:
        notes.append(
            f"{NAMES[split]}: {len(dark)} of the images have 16 bits and use at most {max(dark.values())}, so they are "
            f"read almost black: stretch their values to 16 bits; the first: {next(iter(dark))}"
        )
    return notes


def _by_content(records: Iterable[ImageRecord], facts: dict[Path, ImageFacts]) -> dict[str, list[Path]]:
    """The files of images with the same pixels, by digest; a file that is listed twice counts once."""
    groups: dict[str, dict[Path, None]] = defaultdict(dict)
    for record in records:
        if digest := facts[record.path].digest:
            groups[digest][record.path] = None
    return {digest: list(paths) for digest, paths in groups.items()}


def _find_shared(check: DataCheck) -> None:
    """Images of the training split that the validation split has too are faults: its AP would be too good.

    Where both splits are the same files, that is intended: to see whether a model can learn them.
    """
    training, validation = (check.splits[split] for split in NAMES)
    own, other = (_by_content(held.images, check.facts) for held in (training, validation))
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
    check.splits["train"] = _without(training, {path for path, _ in check.shared})


def _note_versions(check: DataCheck) -> None:
    """Augmented versions of one photo on both sides are told by their names alone, so they are no fault."""
    own, other = ({version_of(record.path.name): record.path for record in check.splits[key].images} for key in NAMES)
    pairs = [(own[photo], path) for photo, path in other.items() if photo and own.get(photo, path) != path]
    if pairs:
        check.notes.append(
            f"validation has versions of {len(pairs)} training photos (Roboflow's .rf. in their names), so its AP is "
            f"too good; the first: {pairs[0][0]} and {pairs[0][1]}; data.val_fraction keeps them on one side"
        )


def _without(annotations: CocoAnnotations, paths: Iterable[Path]) -> CocoAnnotations:
    """The annotations without the images of these files."""
    dropped = set(paths)
    kept = np.array([record.path not in dropped for record in annotations.images], bool)
    return part_of(annotations, kept) if dropped else annotations
