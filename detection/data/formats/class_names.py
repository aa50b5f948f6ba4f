"""Names of classes, from YOLO's data.yaml or a list of one a line."""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from typing import Any

from detection.category_names import category_name
from detection.data.entry_values import show
from detection.data.formats.folders import split_of
from detection.data.formats.text_files import MAX_YAML, is_description, read_description, read_text
from divdet.engine.errors import UserError

_LISTS = ("classes.txt", "obj.names", "labels.txt", "labelmap.txt")
_INNER = ("labels", "images", "annotations", "jpegimages")  # folders of a data set that are not its root


def names_file(path: Path) -> dict[str, Any] | None:
    """The content of a YAML file that lists names; None for other files, such as those of tools with their own tags."""
    try:
        data = read_description(path)
    except UserError:
        if _mentions_names(path):
            raise
        return None
    return data if isinstance(data, dict) and "names" in data else None


def _mentions_names(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return re.search(rb"^(\xef\xbb\xbf)?[\"']?names[\"']?\s*:", file.read(MAX_YAML), re.MULTILINE) is not None
    except OSError:
        return False


def names_in(data: Any, path: Path) -> dict[int, str]:
    """Names by class number, ascending; raises UserError for what is no such list."""
    names = data.get("names") if isinstance(data, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise UserError(f"{path}: has no names: list the classes, such as names: [cat, dog]")
    found: dict[int, str] = {}
    for key, name in names.items():
        number = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10 else key
        if type(number) is not int or not 0 <= number < 10**9:
            raise UserError(f"{path}: names has the key {show(key)}, which is no class number: count from 0")
        if isinstance(name, bool):  # YAML's yes, no, on, off
            raise UserError(f"{path}: name {number} is a truth value to YAML: put it in quotes, such as 'no'")
        text = category_name(str(name) if isinstance(name, int | float) else name)
        if text is None:
            raise UserError(f"{path}: name {number} is {show(name)}, which is no name: give text")
        if number in found:
            raise UserError(f"{path}: names has class {number} twice")
        found[number] = text
    count = data.get("nc")
    if type(count) is int and count != len(found):
        raise UserError(f"{path}: nc is {count}, but names lists {len(found)} classes: correct one of them")
    return dict(sorted(found.items()))


def names_beside(data: dict[str, Any], path: Path) -> dict[int, str]:
    """``names_in``, where a file of names may stand for them, or lie beside a data.yaml without."""
    names = data.get("names")
    file = path.parent / names if isinstance(names, str) and names and "\0" not in names else None
    if file and (not file.is_file() or is_description(file)):
        file = path.parent / PurePath(names.replace("\\", "/")).name
    files = [file] if file else [path.parent / name for name in _LISTS] if names is None else []
    for file in files:
        if file.is_file() and not is_description(file) and (listed := _read_list(file)):
            return names_in(data | {"names": listed}, path)
    return names_in(data, path)


def class_list(folder: Path, yolo: bool) -> tuple[list[str] | dict[int, str], Path] | None:
    """The list of classes in a folder or, from labels/train for example, in those around it; and its file.

    Args:
        folder: of annotations.
        yolo: look also for a data.yaml.
    """
    folder = folder.absolute()
    while True:
        for file in sorted(folder.iterdir()) if yolo and folder.is_dir() else ():
            if is_description(file) and (data := names_file(file)):
                return names_beside(data, file), file
        for file in (folder / name for name in _LISTS):
            if file.is_file() and (names := _read_list(file)):
                return (dict(enumerate(names)) if yolo else names), file
        if folder.name.lower() not in _INNER and split_of(folder.name) is None:
            return None
        folder = folder.parent


def _read_list(file: Path) -> list[str]:
    """One name a line; CVAT's labelmap.txt has ``name:color:parts:actions`` and comments."""
    lines = [line.strip() for line in read_text(file).split("\n")]
    if file.name == "labelmap.txt":
        lines = [line.split(":")[0] for line in lines if not line.startswith("#")]
        lines = [line for line in lines if line.lower() != "background"]
    while lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        if category_name(line) is None:
            raise UserError(f"{file}: line {number} is {'empty' if not line else 'no name'}: give one class a line")
    return lines
