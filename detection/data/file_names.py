"""Matches file names to annotated images; other programs may name the same file from another folder."""

from __future__ import annotations

import re
from pathlib import PurePath

from detection.data.coco import CocoAnnotations
from detection.data.coco_json import show

_LONGEST = 18  # digits of a number that fits 64 bits


def number_in_name(name: str) -> int | None:
    """The number that a file is called by (``val/000139.jpg``: 139), or None."""
    stem = PurePath(name).stem
    return int(stem) if stem.isascii() and stem.isdigit() and len(stem) <= _LONGEST else None


class FileNames:
    """Finds annotated images by file name.

    A name means the image of exactly this ``file_name``; else the one that has the most folders in common with it,
    where one of the two paths ends with the other (``/data/val/1.jpg`` and ``val/1.jpg``); else the only one of the
    same base name.
    """

    def __init__(self, annotations: CocoAnnotations) -> None:
        self.annotations = annotations
        self._exact: dict[str, list[int]] = {}
        self._by_base: dict[str, list[int]] = {}
        self._claimed: dict[int, str] = {}
        self.by_base: dict[str, str] = {}  # names matched by base name alone, and what they matched
        for position, image in enumerate(annotations.images):
            self._exact.setdefault(image.file_name, []).append(position)
            self._by_base.setdefault(_parts(image.file_name)[-1], []).append(position)

    def find(self, name: str, image_id: int | None = None) -> int | str:
        """The position of the image that ``name`` means, or what is wrong as the end of a sentence.

        ``image_id`` chooses where several images fit, unless it may come from the name itself. Two names that mean
        the same image are wrong, too.
        """
        images, truth = self.annotations.images, self.annotations.path
        exact = self._exact.get(name, [])
        fits = exact or self._fits(_parts(name))
        if len(fits) > 1 and (exact or image_id != number_in_name(name)):
            fits = [position for position in fits if images[position].id == image_id] or fits
        if not fits:
            return f"has file_name {show(name)}, which no image of {truth} has; use its own images"
        if len(fits) > 1:
            first, second = (show(images[position].file_name) for position in fits[:2])
            return f"has file_name {show(name)}, which fits {first} and {second} of {truth}; give its name there"
        other, own = self._claimed.setdefault(fits[0], name), images[fits[0]].file_name
        if _parts(other) != _parts(name):
            return f"has file_name {show(name)}, and another {show(other)}: both fit {show(own)} of {truth}"
        if not _agree(_parts(own), _parts(name)):
            self.by_base[name] = own
        return fits[0]

    def describe_by_base(self) -> str:
        """How many names were matched by base name alone, with an example; empty where none was."""
        if not self.by_base:
            return ""
        name, own = next(iter(self.by_base.items()))
        return f"{len(self.by_base)} file names matched by base name alone, such as {show(name)} as {show(own)}"

    def _fits(self, parts: list[str]) -> list[int]:
        same_base = self._by_base.get(parts[-1], [])
        shared: dict[int, list[int]] = {}
        for position in same_base:
            own = _parts(self.annotations.images[position].file_name)
            if _agree(own, parts):
                shared.setdefault(min(len(own), len(parts)), []).append(position)
        return shared[max(shared)] if shared else same_base


def _agree(one: list[str], other: list[str]) -> bool:
    """Whether one path ends with the other."""
    least = min(len(one), len(other))
    return one[-least:] == other[-least:]


def _parts(name: str) -> list[str]:
    """Folders and base name of a path of either system."""
    return [part for part in re.split(r"[/\\]", name) if part not in ("", ".")] or [""]
