"""The ways in which one file is named: by systems, by tools that export, in addresses, from other folders."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from urllib.parse import unquote

_SEPARATORS = re.compile(r"[/\\]")
_DRIVE = re.compile("[A-Za-z]:")
_ADDRESS = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://|/\?d=")  # https://, s3://, Label Studio's /data/local-files/?d=
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# What export tools put before a name: a UUID, a hash (Label Studio: 8 digits), or a time stamp.
_PREFIX = re.compile("^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{8,64})[-_]+(?=[^.])")


def parts_of(name: str) -> list[str]:
    """Folders and base name of a path of either system."""
    return [part for part in _SEPARATORS.split(name) if part not in ("", ".")] or [""]


def loose_parts(name: str) -> list[str]:
    """``parts_of``, equal for names that differ in case, Unicode form, URL encoding, white space or JPEG suffix."""
    if _ADDRESS.search(name):
        name = name.split("?d=")[1] if "?d=" in name else re.split("[?#]", name)[0]
    plain = unicodedata.normalize("NFC", unquote(name).replace("+", " ").strip()).casefold()
    plain = re.sub("[.](jpeg|jpe|jfif)$", ".jpg", plain)
    return [part for part in parts_of(plain) if not _DRIVE.fullmatch(part)] or [""]


def bare_parts(name: str) -> list[str]:
    """``loose_parts`` without what an export tool put before the base name."""
    *folders, base = loose_parts(name)
    return [*folders, _PREFIX.sub("", base)]


def stem_parts(name: str) -> list[str]:
    """``loose_parts`` without the suffix of an image."""
    *folders, base = loose_parts(name)
    return [*folders, os.path.splitext(base)[0] if base.endswith(_SUFFIXES) else base]


def in_common(one: list[str], other: list[str]) -> int:
    """How many parts two paths have in common if one ends with the other, else 0."""
    count = min(len(one), len(other))
    return count if one[-count:] == other[-count:] else 0


# In which forms a name and another are compared, the strictest first. A prefix may be in either, but two prefixes that
# differ are two images.
COMPARISONS: list[tuple[Callable[[str], list[str]], Callable[[str], list[str]]]] = [
    (parts_of, parts_of),
    (loose_parts, loose_parts),
    (bare_parts, loose_parts),
    (loose_parts, bare_parts),
    (loose_parts, stem_parts),
]


class NameIndex:
    """Names, to be found by other ways of writing them.

    Args:
        names: paths of any system.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._groups: dict[Callable[[str], list[str]], dict[str, list[int]]] = {}

    def fits(self, name: str, base_alone: bool) -> list[int]:
        """The indices of the names that fit ``name`` best.

        Forms are compared from the strictest on, until one fits. Of the names with the same base name those fit where
        one path ends with the other, and best where most folders are common. ``base_alone``: where there is none,
        the same base name is enough.
        """
        for own_form, form in COMPARISONS:
            own = own_form(name)
            common = {index: in_common(form(self.names[index]), own) for index in self._by_base(form).get(own[-1], [])}
            most = max(common.values(), default=0)
            if common and (most or base_alone):
                return [index for index, count in common.items() if count == most]
        return []

    def same_stem(self, name: str) -> list[int]:
        """The indices of the names that differ from ``name`` in their suffix or folders."""
        return self._by_base(stem_parts).get(stem_parts(name)[-1], [])

    def _by_base(self, form: Callable[[str], list[str]]) -> dict[str, list[int]]:
        if form not in self._groups:
            groups: dict[str, list[int]] = {}
            for index, name in enumerate(self.names):
                groups.setdefault(form(name)[-1], []).append(index)
            self._groups[form] = groups
        return self._groups[form]
