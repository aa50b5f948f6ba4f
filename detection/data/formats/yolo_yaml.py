"""Where the splits are by YOLO's description of a data set, data.yaml."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from detection.data.entry_values import show
from detection.data.path_forms import parts_of
from divdet.engine.errors import UserError

_DRIVE = re.compile("[A-Za-z]:")
PLACES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def splits_in(data: Any, path: Path) -> dict[str, list[str]]:
    """What ``train``, ``val`` and ``test`` name: folders, files or lists of images."""
    if not isinstance(data, dict):
        raise UserError(f"{path}: is no data.yaml of YOLO: it has no keys such as names and train")
    found: dict[str, list[str]] = {}
    for key, split in PLACES.items():
        if data.get(key) in (None, "", []):
            continue
        entries = data[key] if isinstance(data[key], list) else [data[key]]
        if not all(isinstance(entry, str) and entry and "\0" not in entry for entry in entries):
            raise UserError(f"{path}: {key} is {show(data[key])}: give a folder, a .txt list of images, or several")
        found[split] = found.get(split, []) + entries
    return found


def locate(path: Path, data: dict[str, Any], entry: str) -> Path | None:
    """The file or folder that an entry of a split means, where there is one.

    Entries are relative to ``path`` of the file, which is relative to the file's own folder or the working directory.
    Roboflow writes ``../train/images`` for a folder beside the file, CVAT ``data/images/train`` for one without
    ``data``.
    """
    entry = entry.replace("\\", "/")
    root = data.get("path")
    roots = [path.parent / root, Path(root)] if isinstance(root, str) and root and "\0" not in root else []
    inner = entry
    while inner.startswith("../"):
        inner = inner[3:]
    shorter = [inner, inner.removeprefix("data/")]
    places = [base / text for text in (entry, *shorter) for base in (*roots, path.parent)]
    return next((place for place in places if os.path.exists(place)), None)


def locate_by_end(path: Path, entry: str) -> Path | None:
    """What an absolute path of another machine means: the longest end of it that is beside the file."""
    parts = parts_of(entry)
    if not (entry.startswith(("/", "\\")) or _DRIVE.match(entry)):
        return None
    ends = (path.parent.joinpath(*parts[start:]) for start in range(1, len(parts)))
    return next((place for place in ends if os.path.exists(place)), None)
