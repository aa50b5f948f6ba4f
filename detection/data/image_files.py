"""Finds the file that an annotated ``file_name`` means, inside the image folder and nowhere else."""

from __future__ import annotations

import os
import re
from collections import Counter
from functools import cached_property
from pathlib import Path

from detection.data.entry_values import Fault, show
from detection.data.path_forms import NameIndex, parts_of
from divdet.engine.errors import UserError

_SHOWN = 3
_TEXT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]+")  # no control characters, and encodable as UTF-8


class ImageFiles:
    """The files of an image folder, by the names that annotations give them.

    A name is tried as it stands. If there is no such file, the folder is searched for one that fits: its path ends with
    the name, or the name with its path. ``/`` or ``\\``, case, URL encoding, Unicode form, an export tool's hash before
    a base name, and a missing suffix make no difference. One file must fit better than all others, and no other name
    may mean it.

    Attributes:
        changed: names that are not their file's path, with that path.
        missing: names without a file.

    Args:
        images_dir: the folder. None: names are taken as they stand, and no file is looked for.

    Raises:
        UserError: for what is not a folder.
    """

    def __init__(self, images_dir: str | Path | None, annotations_path: Path) -> None:
        self.changed: dict[str, str] = {}
        self.missing: list[str] = []
        self.images_dir = images_dir
        self._names: dict[str, str] = {}  # by the file that they mean
        if images_dir is not None:
            self.folder = os.path.realpath(images_dir)
            if not os.path.isdir(self.folder):
                raise UserError(f"{images_dir}: not a folder: it should hold the images of {annotations_path}")

    def find(self, name: object) -> Path:
        """Return the path of the file; raise ``Fault`` where none or several fit."""
        if not isinstance(name, str) or not _TEXT.fullmatch(name.strip()):
            raise Fault(f"has file_name {show(name)}, which is no file's name")
        if self.images_dir is None:
            return Path(*(part for part in parts_of(name) if part != os.pardir))
        own = os.path.normpath(name)
        if not (self._is_inside(name) and self._is_file(name)):
            own = self._search(name)
            self.changed[name] = own
        other = self._names.setdefault(own, name)
        if other is not name and parts_of(other) != parts_of(name):
            raise Fault(
                f"has file_name {show(name)}, and an earlier image {show(other)}: both fit {show(own)}; "
                "give each the path of its file in the image folder"
            )
        return Path(self.images_dir, own if name in self.changed else name)

    def counts(self) -> Counter[str]:
        """How many names are changed, with an example, for ``CocoAnnotations.counts``."""
        if not self.changed:
            return Counter()
        name, file = next(iter(self.changed.items()))
        what = f"file names read as another path in the image folder, such as {show(name)} as {show(file)}"
        return Counter({what: len(self.changed)})

    def describe(self) -> str:
        """What the folder holds."""
        names = self._files.names
        return f"the folder holds {len(names)} files" + (f" such as {show(names[0])}" if names else "")

    @staticmethod
    def _is_inside(name: str) -> bool:
        return not os.path.isabs(name) and os.path.normpath(name).split(os.sep)[0] != os.pardir

    def _is_file(self, name: str) -> bool:
        path = os.path.join(self.folder, name)
        if not os.path.isfile(path):
            return False
        if not self._leads_inside(path):
            raise Fault(f"has file_name {show(name)}, a link out of the image folder; put the image itself there")
        return True

    def _leads_inside(self, path: str) -> bool:
        return os.path.realpath(path).startswith(os.path.join(self.folder, ""))

    def _search(self, name: str) -> str:
        fits = [self._files.names[index] for index in self._files.fits(name, base_alone=False)]
        if len(fits) == 1:
            return fits[0]
        if fits:
            listed = " and ".join(map(show, fits[:_SHOWN])) + (" and others" if len(fits) > _SHOWN else "")
            raise Fault(f"has file_name {show(name)}, which is not in {self.images_dir}: {listed} fit; name one")
        self.missing.append(name)
        if not self._is_inside(name):
            raise Fault(f"has file_name {show(name)}, which leaves the image folder; make it relative to that folder")
        alike = self._files.same_stem(name)
        raise Fault(
            f"has file_name {show(name)}, which is not in {self.images_dir}"
            f"{f' (but {show(self._files.names[alike[0]])} is)' if alike else ''}; "
            "correct the image folder or remove the image"
        )

    @cached_property
    def _files(self) -> NameIndex:
        """Paths of all files in the folder that no link leads out of it."""
        found = [os.path.join(root, file) for root, _, files in os.walk(self.folder) for file in files]
        return NameIndex(sorted(os.path.relpath(path, self.folder) for path in found if self._leads_inside(path)))
