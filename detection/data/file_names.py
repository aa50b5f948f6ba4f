"""Finds annotated images by file name; other programs may name the same file from another folder."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from detection.data.entry_values import Fault, show
from detection.data.path_forms import NameIndex, in_common, parts_of

if TYPE_CHECKING:
    from detection.data.annotations import CocoAnnotations

_MAX_DIGITS = 18  # of a number that fits 64 bits


def number_in_name(name: str) -> int | None:
    """The number that is the file's name (``val/000139.jpg``: 139), or None."""
    stem = PurePath(name).stem
    return int(stem) if stem.isascii() and stem.isdigit() and len(stem) <= _MAX_DIGITS else None


class FileNames:
    """Finds annotated images by file name, trying in this order:

    - the image of exactly this ``file_name``;
    - of the images where one path ends with the other (``/data/val/1.jpg`` and ``val/1.jpg``), the one with the most
      folders in common;
    - the only image of the same base name;
    - the same two again where case, URL encoding, or a hash before the base name may differ.

    Of several images of one file the first is found, unless ``image_id`` is another's.

    Attributes:
        by_base: names that only the base name matched, and the ``file_name`` that they matched.
    """

    def __init__(self, annotations: CocoAnnotations) -> None:
        self.by_base: dict[str, str] = {}
        self._annotations = annotations
        self._claimed: dict[int, str] = {}  # the name that found an image
        self._exact: dict[str, list[int]] = {}
        self._names = NameIndex([image.file_name for image in annotations.images])
        for index, image in enumerate(annotations.images):
            self._exact.setdefault(image.file_name, []).append(index)

    def find(self, name: str, image_id: int | None = None) -> int:
        """Return the index of the image that ``name``, a path of any system, means.

        ``image_id`` decides where several images fit, unless it may come from the name itself. Raises ``Fault`` where
        none or several fit, or another name meant the same image.
        """
        images, truth = self._annotations.images, self._annotations.path
        parts, exact = parts_of(name), self._exact.get(name, [])
        fits = exact or self._names.fits(name, base_alone=True)
        if len(fits) > 1 and (exact or image_id != number_in_name(name)):
            fits = [index for index in fits if images[index].id == image_id] or fits
        if not fits:
            raise Fault(f"has file_name {show(name)}, which no image of {truth} has; use its own images")
        if len({tuple(parts_of(images[index].file_name)) for index in fits}) > 1:
            first, second = (show(images[index].file_name) for index in fits[:2])
            raise Fault(f"has file_name {show(name)}, which fits {first} and {second} of {truth}; give its name there")
        other, own = self._claimed.setdefault(fits[0], name), images[fits[0]].file_name
        if parts_of(other) != parts:
            raise Fault(f"has file_name {show(name)}, and another {show(other)}: both fit {show(own)} of {truth}")
        if not in_common(parts_of(own), parts):
            self.by_base[name] = own
        return fits[0]

    def of_stem(self, name: str) -> list[int]:
        """The indices of the images whose base name is that of ``name``, or has only a suffix more."""
        return self._names.same_stem(name)

    def describe_by_base(self) -> str:
        """How many names only the base name matched, with an example; there must be one."""
        name, own = next(iter(self.by_base.items()))
        return f"{len(self.by_base)} file names matched by base name alone, such as {show(name)} as {show(own)}"


def version_of(name: str) -> str | None:
    """The photo that an image is a version of: Roboflow's ``a_jpg.rf.<hash>.jpg`` of ``a_jpg``; None of others."""
    photo, marked, _ = name.rpartition(".rf.")
    return photo if marked else None
