"""Where the splits of a data set are: the layouts that tools write, recognized by content."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import islice
from os.path import exists, isdir, isfile, join
from pathlib import Path
from typing import Any

from detection.data.coco_json import read_json
from detection.data.entry_values import reads_as_number, show
from detection.data.formats.class_names import names_file
from detection.data.formats.folders import (
    NO_LABELS,
    Source,
    images_in,
    label_files,
    relative_name,
    split_of,
    subfolder,
    voc_annotations,
    xml_files,
    yolo_folders,
)
from detection.data.formats.text_files import is_darknet, is_description, read_description
from detection.data.formats.yolo_yaml import PLACES, locate, locate_by_end, splits_in
from detection.data.json_formats import other_format
from detection.data.path_forms import NameIndex
from detection.settings import DataFormat
from detection.sources import IMAGE_SUFFIXES
from divdet.engine.errors import UserError

_LOOKED_AT = 50  # files of a folder that may show its format
_HEAD = 4096  # characters of a file that may show its format
_MAX_JSON = 100  # more JSON files in a folder are one an image, as LabelMe writes, not COCO's
_NAMES = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')

_TABLE = "which is not read: give the data set as COCO, YOLO or Pascal VOC, which most tools export"
_ARCHIVE = "an archive: unpack it and give its folder"
_OTHERS = {
    ".ndjson": f"ultralytics' NDJSON, {_TABLE}",
    ".jsonl": f"JSON Lines, {_TABLE}",
    ".csv": f"CSV, {_TABLE}",
    ".tfrecord": f"TFRecord, {_TABLE}",
    ".record": f"TFRecord, {_TABLE}",
    ".parquet": f"Parquet, {_TABLE}",
} | dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"), _ARCHIVE)


def find_splits(path: str | Path, format: DataFormat = "auto", images: str | Path | None = None) -> dict[str, Source]:
    """Finds the splits of a data set.

    Args:
        path: a COCO JSON file, a YOLO data.yaml or list of images, or a folder.
        format: the only one to look for, unless it is auto.
        images: folder of the images, where it is not the usual one.

    Returns:
        Sources by ``train``, ``val`` and ``test``; one under ``""`` where the data is in one piece.

    Raises:
        UserError: where none or several fit.
    """
    path = Path(path)
    found = _of_folder(path, format) if isdir(path) else _of_file(path)
    for source in found.values():
        if format not in ("auto", source.format):
            raise UserError(f"{path}: is {source.format} by its name, but data.format is {format}")
    if images is not None:
        found = {split: replace(source, images=Path(images)) for split, source in found.items()}
    return found


class _NoneFound(UserError):
    """A folder holds no annotations that are known."""


def _of_file(path: Path) -> dict[str, Source]:
    if not exists(path):
        raise UserError(f"{path}: cannot be read: there is no such file or folder")
    if is_description(path):
        return _described(path, read_description(path))
    if path.suffix.lower() == ".txt":
        voc = path.parent.name == "Main" and path.parent.parent.name == "ImageSets"
        return {"": Source("voc", path.parents[2], path.stem) if voc else Source("yolo", path)}
    if path.suffix.lower() == ".xml":
        raise UserError(f"{path}: is one image's annotation: give the folder of the XML files")
    if kind := _OTHERS.get(path.suffix.lower()):
        raise UserError(f"{path}: is {kind}")
    return {"": Source("coco", path)}  # whatever its name; the shell's <(…) is no file


def _of_folder(folder: Path, format: DataFormat, depth: int = 1) -> dict[str, Source]:
    kinds: dict[str, Callable[[Path], dict[str, Source]]] = {"coco": _coco, "yolo": _yolo, "voc": _voc}
    kinds = {format: kinds[format]} if format != "auto" else kinds
    found = {name: splits for name, find in kinds.items() if (splits := find(folder))}
    if len(found) > 1:
        held = ", ".join(f"{name} ({next(iter(splits.values()))})" for name, splits in found.items())
        raise UserError(f"{folder}: holds annotations in several formats: {held}; choose one by data.format")
    if not found:
        wanted = {"coco": "COCO JSON file", "yolo": "YOLO data.yaml or labels", "voc": "Pascal VOC XML files"}
        inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith((".", "__"))]
        if depth and len(inner) == 1:  # an archive's own folder
            with suppress(_NoneFound):
                return _of_folder(inner[0], format, depth - 1)
        others = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in _OTHERS]
        if others:
            raise UserError(f"{others[0]}: is {_OTHERS[others[0].suffix.lower()]}")
        for file in sorted(islice(folder.rglob("*.json"), _LOOKED_AT)):
            if other := other_format(read_json(file)):
                raise UserError(f"{file}: not COCO ground truth{other}")
        looked = ", ".join(wanted[name] for name in kinds)
        raise _NoneFound(f"{folder}: no annotations found in a known layout (looked for: {looked}); see docs/data.md")
    return next(iter(found.values()))


def _yolo(folder: Path) -> dict[str, Source]:
    if darknet := [file for file in sorted(folder.iterdir()) if is_darknet(file) and names_file(file)]:
        data = read_description(darknet[0])
        splits = splits_in(data, darknet[0])
        if splits and all(locate(darknet[0], data, entry) for entries in splits.values() for entry in entries):
            return {split: Source("yolo", darknet[0], split) for split in splits}
    files = [file for file in sorted(folder.iterdir()) if is_description(file) and not is_darknet(file)]
    texts = {file: data for file in files if (data := names_file(file))}
    files = list(texts)
    if len(files) > 1:
        raise UserError(f"{folder}: {files[0].name} and {files[1].name} both describe a YOLO data set: name one")
    if files and (found := _described(files[0], texts[files[0]])):
        return found
    for parent in (subfolder(folder, "labels"), subfolder(folder, "images"), folder):
        parts = _split_folders(parent) if parent else {}
        if found := {split: Source("yolo", path) for split, path in parts.items() if _holds_labels(path)}:
            return found
    lists = {split: path for split, path in _split_lists(folder).items() if _lists_images(path)}
    if "train" in lists and _any(label_files(folder), _is_label):
        return {split: Source("yolo", path) for split, path in lists.items()}
    return {"": Source("yolo", folder)} if _holds_labels(folder) else {}


def _described(file: Path, data: Any) -> dict[str, Source]:
    """The splits that a data.yaml names. Roboflow names a test split that is not exported, too."""
    splits = splits_in(data, file)
    tests = splits.get("test", ())
    absent = [entry for entry in tests if not (locate(file, data, entry) or locate_by_end(file, entry))]
    if absent and len(splits) > 1:
        _note(f"{file}: its test split is left out, since {show(absent[0])} is not there")
        del splits["test"]
    return {split: Source("yolo", file, split) for split in ("train", "val", "test") if split in splits}


def _voc(folder: Path) -> dict[str, Source]:
    years = [path for inner in (folder, folder / "VOCdevkit") for path in sorted(inner.glob("VOC[0-9]*"))]
    years = [path for path in years if (path / "Annotations").is_dir()]
    if len(years) > 1:
        raise UserError(f"{folder}: holds {years[0].name} and {years[1].name}: name one of them")
    if years:
        return _voc(years[0])
    inner = voc_annotations(folder)
    if inner != folder and _holds_xml(inner):
        lists = {file.stem for file in (folder / "ImageSets" / "Main").glob("*.txt")}
        found = {split: Source("voc", folder, split) for split in ("train", "val", "test") if split in lists}
        if "train" not in found and "trainval" in lists:
            found = {"train": Source("voc", folder, "trainval")} | found
        parts = {} if found else _split_folders(inner)
        found |= {split: Source("voc", path) for split, path in parts.items() if _holds_xml(path)}
        return found or {"": Source("voc", folder)}
    parts = _split_folders(folder)
    found = {split: Source("voc", path) for split, path in parts.items() if _holds_xml(voc_annotations(path))}
    return found or ({"": Source("voc", folder)} if _holds_xml(folder) else {})


def _coco(folder: Path) -> dict[str, Source]:
    if files := _coco_files(voc_annotations(folder)):
        return _by_split(folder, files)
    found = {split: files for split, path in _split_folders(folder).items() if (files := _coco_files(path))}
    return {split: _by_split(folder, files, split)[split] for split, files in found.items()}


def _coco_files(folder: Path) -> list[Path]:
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() == ".json" and file.is_file()]
    files = [file for file in files if file.stem.startswith("instances")] or files  # COCO's own are large
    return [file for file in files if _is_coco(file)] if len(files) <= _MAX_JSON else []


def _by_split(folder: Path, files: list[Path], split: str | None = None) -> dict[str, Source]:
    """COCO sources by the splits that the files' names say; of several those that COCO calls instances."""
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(split or split_of(file.stem) or "", []).append(file)
    if len(groups) > 1 and (left := groups.pop("", None)):
        names = ", ".join(file.name for file in left[:3]) + (", …" if len(left) > 3 else "")
        _note(f"{folder}: not read, since other files are named after splits: {names}")
    for name, group in groups.items():
        instances = [file for file in group if file.stem.startswith("instances")]
        if len(instances or group) > 1:
            first, second = (instances or group)[:2]
            raise UserError(
                f"{folder}: {first.name} and {second.name} both fit"
                + (f" the split {name}" if name else "")
                + ": name the files by data.train_annotations and data.val_annotations"
            )
        groups[name] = instances or group
    order = [name for name in ("train", "val", "test", "") if name in groups]
    return {name: Source("coco", groups[name][0]) for name in order}


@cache
def _note(text: str) -> None:
    """Prints a note, once: splits are found again for each that is read."""
    print(f"note: {text}")


def coco_images(file: Path) -> Path | None:
    """The folder that holds the images of a COCO file, in the usual layouts; None where none of them does."""
    try:
        names = [json.loads(match[1]) for match in islice(_NAMES.finditer(_utf8(file)), _LOOKED_AT)]
    except (OSError, ValueError):
        return None  # reading it will say why
    names = [name.replace("\\", "/").lstrip("/") for name in names if "\0" not in name]
    bases = [file.parent, file.parent.parent]
    split = split_of(file.stem) or split_of(file.parent.name)
    named = [path for base in (*bases, *(base / "images" for base in bases)) for path in _matching(base, split)]
    places = [file.parent, *named, *(path / "images" for path in named)]
    places += [base / name for base in bases for name in ("images", "data", "JPEGImages")]
    places += [place / "default" for place in places]  # CVAT's name of the only split

    def held(place: Path) -> int:
        if not place.is_dir():
            return 0
        return sum(isfile(join(place, name)) or isfile(join(place, Path(name).name)) for name in names)

    best = max(places, key=held)
    if held(best):
        return best
    # Names in other forms, which take longer: hashed ones, without suffix, or in folders
    nearest = sorted(places, key=lambda place: not place.is_relative_to(file.parent))
    usual: dict[Path, Path] = {}  # without links to the same folder
    for place in filter(Path.is_dir, nearest):
        usual.setdefault(place.resolve(), place)
    fitting = {}
    for place in usual.values():
        files = place.iterdir() if place == file.parent else images_in(place, links=False)  # it may be a home folder
        index = NameIndex([relative_name(path, place) for path in files])
        fitting[place] = sum(bool(index.fits(name, base_alone=False)) for name in names)
    best = max(fitting, key=fitting.__getitem__, default=None)
    return best if best and fitting[best] else None


def _utf8(file: Path) -> bytes:
    data = file.read_bytes()
    return data if json.detect_encoding(data).startswith("utf-8") else data.decode(json.detect_encoding(data)).encode()


def _matching(base: Path, split: str | None) -> list[Path]:
    if split is None or not base.is_dir():
        return []
    return [path for path in sorted(base.iterdir()) if path.is_dir() and split_of(path.name) == split]


def _split_folders(folder: Path) -> dict[str, Path]:
    """Subfolders that are named after splits, in the order train, val, test."""
    if not folder.is_dir():
        return {}
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (split := split_of(path.name)):
            if split in found:
                raise UserError(f"{folder}: {found[split].name} and {path.name} are both {split} folders: name one")
            found[split] = path
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _split_lists(folder: Path) -> dict[str, Path]:
    """Text files that are named after splits alone, in the order train, val, test."""
    found = {PLACES[file.stem.lower()]: file for file in sorted(folder.glob("*.txt")) if file.stem.lower() in PLACES}
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _lists_images(file: Path) -> bool:
    first = _head(file).split("\n", 1)[0] if file.is_file() else ""
    return Path(first.strip().replace("\\", "/")).suffix.lower() in IMAGE_SUFFIXES


def _holds_labels(folder: Path) -> bool:
    labels, images = yolo_folders(folder)
    own = labels.glob("*.[tT][xX][tT]") if labels == images == folder else label_files(labels)
    return _any(own, lambda file: not NO_LABELS.fullmatch(file.name) and _is_label(file))


def _is_label(file: Path) -> bool:
    words = _head(file).split("\n", 1)[0].split()
    return len(words) >= 5 and (all(map(reads_as_number, words[1:5])) or all(map(reads_as_number, words[-4:])))


def _holds_xml(folder: Path) -> bool:
    return _any(xml_files(folder), lambda file: "<annotation" in _head(file))


def _is_coco(file: Path) -> bool:
    """Whether a JSON file holds COCO's lists, or has COCO's name and is empty or cut off, which reading it will say."""
    try:
        text = file.read_bytes().replace(b"\0", b"")  # UTF-16
    except OSError:
        return False
    named = file.stem.startswith(("instances", "_annotations.coco"))
    if named and not text.rstrip().endswith((b"}", b"]")):
        return True
    return all(f'"{key}"'.encode() in text for key in ("images", "annotations", "categories"))


def _head(file: Path) -> str:
    """How a text file begins; empty where it cannot be read, which reading it whole will say."""
    try:
        with open(file, encoding="utf-8-sig", errors="replace") as opened:
            return opened.read(_HEAD)
    except OSError:
        return ""


def _any(files: Iterable[Path], fits: Callable[[Path], bool]) -> bool:
    """Whether one of the first files is of a kind."""
    return any(file.is_file() and fits(file) for file in islice(files, _LOOKED_AT))
