"""From the data settings to annotations, whatever their format."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from os.path import exists, isfile
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations import NAMES, CocoAnnotations, Split, part_of
from detection.data.coco import ground_truth_from, load_annotations
from detection.data.faults import DataError, DataFault
from detection.data.file_names import number_in_name, version_of
from detection.data.formats.folders import Source
from detection.data.formats.layouts import coco_images, find_splits
from detection.data.formats.voc import read_voc
from detection.data.formats.yolo import read_yolo
from detection.data.image_index import index_images
from detection.settings import DataFormat, EvalDataSettings, Orientation, VocOrigin
from divdet.engine.errors import UserError


@dataclass
class Known:
    """What was found and read, for the other split of the same settings.

    Attributes:
        splits: by path and format.
        whole: annotations that ``val_fraction`` divides, read once, so that their faults are named once.
    """

    splits: dict[tuple[str, str], dict[str, Source]] = field(default_factory=dict)
    whole: dict[Source, CocoAnnotations] = field(default_factory=dict)

    def find_splits(self, path: str, format: DataFormat) -> dict[str, Source]:
        """``layouts.find_splits``, once."""
        if (path, format) not in self.splits:
            self.splits[path, format] = find_splits(path, format)
        return self.splits[path, format]


def read_annotations(
    data: EvalDataSettings,
    split: Split,
    faults: list[DataFault] | None = None,
    need_images: bool = True,
    known: Known | None = None,
) -> CocoAnnotations:
    """Reads the annotations that the settings name for a split.

    Args:
        data: the settings. With ``val_fraction`` both splits are parts of the training annotations.
        split: train or val.
        faults: receives the faults of entries, which are left out. Without it they are raised.
        need_images: whether the images must be there.
        known: keeps what the call for the other split needs, too.

    Raises:
        DataError: for faulty entries, all at once.
        UserError: where the settings name no annotations, or what they name cannot be read.
    """
    wanted = split if data.val_fraction is None else "train"
    known = known or Known()
    named, every = _sources(data, wanted, known)
    if data.val_fraction is not None and "val" in named:
        raise UserError(
            f"data.val_fraction is {data.val_fraction}, but there is a validation split, {named['val']}: leave one out"
        )
    if wanted not in named:
        raise UserError(_missing(data, wanted, named))
    need_images |= data.val_fraction is not None  # their content decides
    source = named[wanted]
    try:
        annotations = known.whole.get(source) or read_source(
            source, every, data.orientation, data.voc_origin, faults, need_images=need_images
        )
    except ImagesNotFound as error:
        raise UserError(f"{error}: data.{wanted}_images is not set: give it as --data.{wanted}_images") from error
    if data.val_fraction is None:
        return annotations
    known.whole[source] = annotations
    chosen = validation_part(annotations, data.val_fraction, data.val_seed)
    kept = chosen if split == "val" else ~chosen
    part = part_of(annotations, kept)
    what = f"of {len(kept)} images, for {NAMES[split]} by data.val_fraction {data.val_fraction:g}"
    part.counts = (annotations.counts if split == "train" else Counter()) + Counter({what: int(kept.sum())})
    return part


class ImagesNotFound(UserError):
    """The folder of a COCO file's images is not known."""


def read_source(
    source: Source,
    others: Iterable[Source] = (),
    orientation: Orientation = "auto",
    voc_origin: VocOrigin = "auto",
    faults: list[DataFault] | None = None,
    *,
    need_images: bool = True,
) -> CocoAnnotations:
    """Reads the annotations of a source; see ``read_annotations``.

    Args:
        others: further splits of the same data, which share its classes and conventions.
    """
    if source.format == "coco":
        images = (source.images or coco_images(source.path)) if need_images else None
        if need_images and images is None:
            if not source.path.is_file():
                raise UserError(f"{source.path}: there is no such file")
            load_annotations(source.path, None, faults=[])  # a damaged file, or one of another format, has that fault
            raise ImagesNotFound(f"{source.path}: its images were not found in the usual places")
        return load_annotations(source.path, images, orientation, faults=faults)
    found: list[DataFault] = []
    if source.format == "yolo":
        orientation = "stored" if orientation == "stored" else "upright"
        content = read_yolo(source, others, orientation, found)
    else:
        content = read_voc(source, others, voc_origin, found, need_images)
    if not content.data["images"] or not content.data["categories"]:  # nothing is left to be checked
        raise DataError(found) if found else UserError(f"{source}: holds no objects, so no classes: list them")
    _number_images(content.data)
    folder = content.images if need_images else None
    try:
        annotations = ground_truth_from(content.data, source.path, folder, orientation, faults=found)
    except DataError as error:
        raise DataError([*found, *error.faults]) from error
    annotations.counts = content.counts + annotations.counts
    annotations.named = True
    if faults is not None:
        faults += found
    elif found:
        raise DataError(found)
    return annotations


def validation_part(annotations: CocoAnnotations, fraction: float, seed: int) -> np.ndarray:
    """Which images are for validation: bool [n].

    A hash of the seed and an image's pixels decides, so that copies of a photo are on one side, and an image keeps its
    side whatever others there are. Of augmented versions of one photo (see ``version_of``) the photo's name decides.
    Where that leaves a side empty, the image with the lowest hash is for validation, or the one with the highest for
    training.
    """
    paths = [record.path for record in annotations.images]
    facts = index_images(paths)
    photos = [version_of(path.name) for path in paths]
    versions = Counter(photos)
    texts = (
        photo if photo and versions[photo] > 1 else facts[path].digest or path.name
        for photo, path in zip(photos, paths, strict=True)
    )
    hashes = np.array([_hash(seed, text) for text in texts])
    if len(np.unique(hashes)) < 2:
        raise UserError(f"{annotations.path}: has only one image, or copies of one, which cannot be split")
    chosen = hashes < fraction
    if not chosen.any():
        chosen = hashes == hashes.min()
    elif chosen.all():
        chosen = hashes != hashes.max()
    return chosen


def _hash(seed: int, text: str) -> float:
    """Evenly distributed from 0 to 1."""
    value = hashlib.blake2b(f"{seed} {text}".encode("utf-8", "backslashreplace"), digest_size=6).digest()
    return int.from_bytes(value, "big") / 2**48


def _sources(data: EvalDataSettings, wanted: str, known: Known) -> tuple[dict[str, Source], list[Source]]:
    """What the settings name, by split; and all splits found on the way, which share classes and conventions.

    Raises:
        UserError: where the split that is wanted cannot be found.
    """
    named: dict[str, Source] = {}
    every: list[Source] = []
    for split in ("train", "val"):
        annotations, images = (getattr(data, f"{split}_{key}") for key in ("annotations", "images"))
        if not (annotations or data.path):
            continue
        try:
            splits = known.find_splits(annotations or data.path, data.format)
            if images is not None:
                splits = {name: replace(source, images=Path(images)) for name, source in splits.items()}
            if annotations:
                named[split] = _choose(splits, split, annotations)
            elif source := splits.get(split) or (splits.get("") if split == "train" else None):
                named[split] = source
            every += splits.values()
        except UserError:
            if split == wanted:
                raise
    return named, every


def is_training_split(data: EvalDataSettings, own: EvalDataSettings) -> bool:
    """Whether ``data`` evaluates images that ``own``, a checkpoint's settings, trains on; none of them is looked at."""
    part, held_out = data.val_fraction, own.val_fraction
    own_part = part and held_out and part <= held_out and data.val_seed == own.val_seed
    own_split = not part and (data.path, data.val_annotations) == (own.path, own.val_annotations)
    if own_part or own_split or not exists(own.train_annotations or own.path or ""):
        return False
    with suppress(OSError, UserError):  # of what the training data has become
        pairs = ((own, "train"), (data, "train" if part else "val"))
        trained, evaluated = (_sources(settings, split, Known())[0].get(split) for settings, split in pairs)
        if trained and evaluated:
            return trained.split == evaluated.split and trained.path.resolve() == evaluated.path.resolve()
    return False


def _number_images(data: dict[str, list[dict[str, Any]]]) -> None:
    """Gives image ids: the numbers that are the files' names where all are, as in COCO, else counted from 1."""
    numbers = [number_in_name(image["file_name"]) for image in data["images"]]
    counted = None in numbers or len(set(numbers)) < len(numbers)
    numbers = range(1, len(numbers) + 1) if counted else numbers
    ids = {image["id"]: number for image, number in zip(data["images"], numbers, strict=True)}
    for image in data["images"]:
        image["id"] = ids[image["id"]]
    for annotation in data["annotations"]:
        annotation["image_id"] = ids[annotation["image_id"]]


def _choose(splits: dict[str, Source], split: str, path: str) -> Source:
    if source := splits.get(split) or splits.get(""):
        return source
    raise UserError(f"{path}: has no {NAMES[split]} split, but {', '.join(splits)}: name the folder or file to use")


def _missing(data: EvalDataSettings, split: str, named: dict[str, Source]) -> str:
    if data.path:
        held = f" (it has {', '.join(named)})" if named else ""
        more = " or data.val_fraction, such as 0.2" if split == "val" else ""
        folder, formats = Path(data.path).parent, {source.format for source in named.values()}
        with suppress(OSError, UserError):  # the folder may hold anything
            if isfile(data.path) and formats and split in find_splits(folder, formats.pop()):
                more += f", or give the folder, which has one: --data {folder}"
        return f"{data.path}: no {NAMES[split]} split found{held}: set data.{split}_annotations{more}"
    more = ", or data.val_fraction to hold back a part of the training images" if split == "val" else ""
    return (
        f"data.{split}_annotations is not set: give it in the config file or as --data.{split}_annotations, or a whole "
        f"data set as --data{more}"
    )
