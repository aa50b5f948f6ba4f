"""Names and places of folders that formats share."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from detection.sources import IMAGE_SUFFIXES
from divdet.engine.errors import UserError, printable

_WORD = re.compile(r"(?<![a-z])(train|training|val|valid|validation|test|testing)(?:(?:19|20)\d\d)?(?![a-z])", re.I)
_SAME = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
NO_LABELS = re.compile(
    r"(classes|faults|labels|labelmap|notes|readme|predefined_classes|requirements)(\.\w+)*\.txt", re.I
)


@dataclass(frozen=True)
class Source:
    """The annotations of one split.

    Attributes:
        format: coco, yolo or voc.
        path: a COCO JSON file; a YOLO data.yaml, list of images, or folder; a VOC folder.
        split: which of data.yaml's splits or VOC's lists (ImageSets/Main); None: all.
        images: folder of the images; None: where the format has them.
    """

    format: str
    path: Path
    split: str | None = None
    images: Path | None = None

    def __str__(self) -> str:
        return str(self.path) + (f" ({self.split})" if self.split else "")


def split_of(name: str) -> str | None:
    """train, val or test where a name has one such word: ``instances_val2017``, ``Valid``."""
    words = {_SAME.get(word.lower(), word.lower()) for word in _WORD.findall(name)}
    return words.pop() if len(words) == 1 else None


def parallel(folder: Path, one: str, other: str) -> Path | None:
    """The folder whose path has ``other`` in place of the last ``one``: labels/train for images/train."""
    parts = list(folder.absolute().parts)
    places = [place for place, part in enumerate(parts) if part.lower() == one.lower()]
    if not places:
        return None
    for name in (other, other.capitalize(), other.upper()):
        parts[places[-1]] = name
        if Path(*parts).is_dir():
            return _as_given(Path(*parts), folder)
    return None


def label_files(folder: Path) -> Iterator[Path]:
    """YOLO's label files in a folder, also in its subfolders; not lists of classes and the like."""
    return (file for file in sorted(_below(folder, [".txt"])) if not NO_LABELS.fullmatch(file.name))


def xml_files(folder: Path) -> Iterator[Path]:
    """The XML files in a folder and its subfolders."""
    return (file for file in _below(folder, [".xml"]) if file.is_file())


def images_in(folder: Path, links: bool = True) -> list[Path]:
    """The image files of a folder and its subfolders, by suffix; raises UserError where there is no folder.

    ``links``: also of folders that links lead to.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of images")
    return [path for path in _below(folder, IMAGE_SUFFIXES, links) if path.is_file()]


def _below(folder: Path, suffixes: Collection[str], links: bool = True) -> Iterator[Path]:
    """The files of a folder and its subfolders that have a suffix, but nothing hidden: macOS writes ._NAME.jpg.

    Links to folders are followed, as ultralytics does, but last, and no folder is read twice. One that cannot be read
    is left out, since a drive's root may hold one (lost+found), and said.
    """
    seen = set(map(str, Path(os.path.realpath(folder)).parents))  # a link to one of them would lead to everything
    starts = [os.fspath(folder)]
    for start in starts:  # which grow
        for parent, inner, files in os.walk(start, onerror=lambda error: _left_out(error.filename, error.strerror)):
            real = os.path.realpath(parent)
            inner[:] = [name for name in inner if real not in seen and not name.startswith(".")]
            if real in seen:
                continue
            seen.add(real)
            starts += [path for name in inner if links and os.path.islink(path := os.path.join(parent, name))]
            fitting = (name for name in files if os.path.splitext(name)[1].lower() in suffixes)
            yield from (Path(parent, name) for name in fitting if not name.startswith("."))


@cache  # said once, though images and labels are looked for several times
def _left_out(folder: str, why: str) -> None:
    print(printable(f"note: {folder}: cannot be read ({why}), so it is left out"))


def yolo_folders(path: Path) -> tuple[Path, Path]:
    """Folders of the labels and of the images for one that holds either or both."""
    if labels := subfolder(path, "labels"):
        return labels, subfolder(path, "images") or path
    if images := parallel(path, "labels", "images"):
        return path, images
    if labels := parallel(path, "images", "labels"):
        return labels, path
    return path, path


def subfolder(path: Path, name: str) -> Path | None:
    """The folder of a name in lower case, or with capitals."""
    return next((path / form for form in (name, name.capitalize(), name.upper()) if (path / form).is_dir()), None)


def voc_annotations(path: Path) -> Path:
    """The folder of the XML files of a VOC folder."""
    return next((path / name for name in ("Annotations", "annotations") if (path / name).is_dir()), path)


def common_folder(paths: Sequence[Path]) -> Path:
    """The innermost folder that holds all files."""
    folders = {path.parent for path in paths}
    if len(folders) == 1:
        return folders.pop()
    found = Path(os.path.commonpath([path.absolute() for path in paths]))
    return found if any(path.is_absolute() for path in paths) else _as_given(found, paths[0])


def _as_given(path: Path, other: Path) -> Path:
    """An absolute path, relative to the working directory where another one is: messages show both in one form."""
    return path if other.is_absolute() else Path(os.path.relpath(path))


def relative_name(path: Path, folder: Path) -> str:
    """The ``file_name`` of an image in a folder."""
    return Path(os.path.relpath(path, folder)).as_posix()


def named_images(paths: Sequence[Path]) -> tuple[Path, dict[Path, str]]:
    """The innermost folder of images, and their ``file_name`` in it, in the order of their paths.

    Where images are links to files elsewhere, as splits of one collection often are, those files are named.
    """
    folder = common_folder(paths)
    ordered = sorted(paths, key=lambda path: relative_name(path, folder))
    real = {path: Path(os.path.realpath(path)) for path in ordered}
    root = os.path.join(os.path.realpath(folder), "")
    if all(str(path).startswith(root) for path in real.values()):
        return folder, {path: relative_name(path, folder) for path in ordered}
    folder = common_folder(list(real.values()))
    return folder, {path: relative_name(real[path], folder) for path in ordered}
