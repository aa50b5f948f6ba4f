"""YOLO's lists of images: a path a line, of this machine or of the one that wrote the list."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from detection.data.entry_values import Fault, show
from detection.data.faults import DataFault
from detection.data.formats.folders import images_in, relative_name
from detection.data.formats.text_files import read_text
from detection.data.path_forms import NameIndex

REPEATED_IMAGES = "images listed more than once, which count once"

_COMMON = 2  # parts of two paths that end alike: a folder and a name


def listed_images(file: Path, roots: Sequence[Path], faults: list[DataFault], counts: Counter[str]) -> list[Path]:
    """The images that a .txt file lists.

    A path that is not there is searched below ``roots``, as COCO's file names are in the image folder. Its end must fit
    exactly one image: all of that image's path, or its folder and name.

    Args:
        file: the list.
        roots: folders that its paths may be relative to.
        faults: receives the lines whose image is not there.
        counts: receives how many paths were searched and found, and repeated lines.

    Raises:
        UserError: where the list cannot be read.
    """
    roots = list({os.path.realpath(root): root for root in roots if root.is_dir()}.values())
    indices = cache(_index)
    found: dict[Path, str] = {}
    moved: list[tuple[str, Path]] = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not (name := line.strip()):
            continue
        try:
            image = _as_it_stands(name, roots)
            if image is None:
                image = _by_its_end(name, roots, indices)
                if found.get(image, name) != name:
                    raise Fault(f"names {show(name)}, and an earlier line {show(found[image])}: both fit {image}")
                moved.append((name, image))
            counts[REPEATED_IMAGES] += image in found
            found.setdefault(image, name)
        except Fault as fault:
            faults.append(DataFault(str(file), f"line {number}", str(fault)))
    if moved:
        name, image = moved[0]
        counts[f"listed paths that are not there, found by their end, such as {show(name)} as {image}"] = len(moved)
    return list(found)


def _as_it_stands(name: str, roots: Sequence[Path]) -> Path | None:
    name = name.replace("\\", "/")
    texts = (name, name.removeprefix("data/"))  # CVAT writes data/ for a folder that it does not make
    return next((path for text in texts for root in (*roots, Path()) if os.path.isfile(path := root / text)), None)


def _by_its_end(name: str, roots: Sequence[Path], index: Callable[[Path], NameIndex]) -> Path:
    for root in roots:
        names = index(root)
        found = names.fits(name, base_alone=False) or names.sharing_end(name, _COMMON)
        fits = [root / names.names[place] for place in found]
        if len(fits) > 1:
            raise Fault(f"names {show(name)}, which is not there: {fits[0]} and {fits[1]} fit; correct the list")
        if fits:
            return fits[0]
    raise Fault(f"names {show(name)}, which is not there; correct the list")


def _index(root: Path) -> NameIndex:
    return NameIndex(sorted(relative_name(path, root) for path in images_in(root)))
