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


_MAX_TAIL = 16  # parts of a path that are indexed

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
        self._tables: dict[Callable[[str], list[str]], _Tails] = {}

    def fits(self, name: str, base_alone: bool) -> list[int]:
        """The indices of the names that fit ``name`` best.

        Forms are compared from the strictest on, until a name fits: one path ends with the other. Those with the most
        folders in common fit best, of these the ones without folders that ``name`` lacks. ``base_alone``: where none
        fits, an equal base name is enough.
        """
        for own_form, form in COMPARISONS:
            own = own_form(name)
            table = self._table(form)
            if best := table.best(own) or (table.ending(own[-1:]) if base_alone else []):
                return [index for index in best if len(table.paths[index]) <= len(own)] or best
        return []

    def sharing_end(self, name: str, least: int) -> list[int]:
        """The indices of the names that have the longest end in common with ``name``, of ``least`` parts or more."""
        own, table = loose_parts(name), self._table(loose_parts)
        ends = (own[-count:] for count in range(len(own), least - 1, -1))
        return next((found for end in ends if (found := table.ending(end))), [])

    def same_stem(self, name: str) -> list[int]:
        """The indices of the names that differ from ``name`` in their suffix or folders."""
        return self._table(stem_parts).ending(stem_parts(name)[-1:])

    def _table(self, form: Callable[[str], list[str]]) -> _Tails:
        if form not in self._tables:
            self._tables[form] = _Tails([tuple(form(name)) for name in self.names])
        return self._tables[form]


class _Tails:
    """Paths by their ends, so that many files of one base name (``1/image.jpg``, ``2/image.jpg``) take no longer."""

    def __init__(self, paths: list[tuple[str, ...]]) -> None:
        self.paths = paths
        self._whole: dict[tuple[str, ...], list[int]] = {}
        self._tails: dict[tuple[str, ...], list[int]] = {}
        for index, path in enumerate(paths):
            self._whole.setdefault(path, []).append(index)
            for count in range(1, min(len(path), _MAX_TAIL) + 1):
                self._tails.setdefault(path[-count:], []).append(index)
        self._lengths = sorted({len(path) for path in self._whole}, reverse=True)

    def ending(self, end: Sequence[str]) -> list[int]:
        """The paths that end with ``end``."""
        found = self._tails.get(tuple(end[-_MAX_TAIL:]), [])
        return found if len(end) <= _MAX_TAIL else [i for i in found if self.paths[i][-len(end) :] == tuple(end)]

    def best(self, own: Sequence[str]) -> list[int]:
        """The paths that end with ``own``, else the longest with which it ends."""
        shorter = (tuple(own[-count:]) for count in self._lengths if count < len(own))
        return self.ending(own) or next((self._whole[end] for end in shorter if end in self._whole), [])
