"""What the image files of a data set are like: sizes, EXIF orientation, content, and which cannot be decoded.

Decoding a data set takes a minute for ten thousand photos and core, so what was found is kept in
``$XDG_CACHE_HOME/divdet/images`` (default ``~/.cache``), one file a folder of images, and holds as long as an image's
size and time of change do.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from divdet.engine.errors import UserError, printable
from divdet.engine.exif import read_turned
from divdet.engine.files import reason
from divdet.engine.images import decode_image, read_bytes
from divdet.engine.limits import cores
from divdet.engine.progress import progress

_FORMAT = ["divdet image index 1", cv2.__version__]  # another version may decode other files, or other pixels
_CHUNK = 2048  # images after which the findings are saved: a stopped check continues there


class ImageFacts(NamedTuple):
    """What an image file is like.

    Attributes:
        width, height: pixels as stored, before any EXIF rotation; 0 where it cannot be decoded.
        orientation: EXIF orientation that rotates or mirrors it (2 to 8), else 1.
        fault: why it cannot be decoded, as the end of a sentence; empty where it can.
        digest: of the pixels as stored and decoded to 8-bit RGB, so copies with other metadata have the same.
        bits: how many bits the greatest of 16-bit samples needs; 8 for all other images.
    """

    width: int
    height: int
    orientation: int
    fault: str = ""
    digest: str = ""
    bits: int = 8

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height after the EXIF rotation."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def index_images(paths: Iterable[Path]) -> dict[Path, ImageFacts]:
    """Decodes image files, those that are new or have changed; returns what each is like.

    No image raises: see ``ImageFacts.fault``. Faults are not remembered, since permissions and limits change without
    the file.
    """
    paths = list(dict.fromkeys(paths))
    folders: dict[Path, _Folder] = {}
    found: dict[Path, ImageFacts] = {}
    left: list[Path] = []
    for path in paths:
        folder = folders.get(path.parent)
        if folder is None:
            folder = folders[path.parent] = _folder(os.path.realpath(path.parent), _cache_folder())
        if known := folder.recall(path):
            found[path] = known
        else:
            left.append(path)
    if left:
        found |= _decode_all(left, folders)
    return {path: found[path] for path in paths}


def image_facts(path: Path) -> ImageFacts:
    """Decodes one image file."""
    try:
        data = read_bytes(path)
        image = decode_image(data, str(path), orient=False)
        turned = read_turned(path)
        height, width = image.shape[:2]
        digest = hashlib.sha1(f"{width}x{height}".encode(), usedforsecurity=False)
        digest.update(image)
        return ImageFacts(width, height, turned[0] if turned else 1, "", digest.hexdigest()[:32], _used_bits(data))
    except UserError as error:
        return ImageFacts(0, 0, 1, str(error).removeprefix(printable(f"{path}: ")))
    except MemoryError:
        return ImageFacts(0, 0, 1, "the image does not fit in memory; shrink it")


def _decode_all(paths: Sequence[Path], folders: dict[Path, _Folder]) -> dict[Path, ImageFacts]:
    """Decodes in threads (OpenCV and hashing leave Python's lock), and saves what was found every ``_CHUNK`` images."""
    found: dict[Path, ImageFacts] = {}
    changed: set[Path] = set()
    threads = ThreadPoolExecutor(_threads(), thread_name_prefix="decoding")
    try:
        with progress(range(len(paths)), "checking images", unit="image", total=len(paths)) as bar:
            for start in range(0, len(paths), _CHUNK):
                part = paths[start : start + _CHUNK]
                # The state before decoding: a file that changes meanwhile is decoded again next time.
                states = [_state(path) for path in part]
                for path, state, facts in zip(part, states, threads.map(image_facts, part), strict=True):
                    found[path] = facts
                    bar.update()
                    if state and not facts.fault:
                        folders[path.parent].note(path, state, facts)
                        changed.add(path.parent)
                while changed:
                    folders[changed.pop()].save()
    finally:  # an interrupted run ends now, not when all images are decoded
        threads.shutdown(wait=False, cancel_futures=True)
        while changed:
            folders[changed.pop()].save()
    return found


def _threads() -> int:
    """Two more than cores: reading from a slow drive leaves cores idle."""
    return min(cores() + 2, 32)


def _used_bits(data: bytes) -> int:
    """See ``ImageFacts.bits``."""
    if data[:2] == b"\xff\xd8" or (data[:4] == b"\x89PNG" and data[24] != 16):
        return 8
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    except cv2.error:
        return 8
    return 8 if image is None or image.dtype != np.uint16 else int(image.max()).bit_length()


def _state(path: Path) -> tuple[int, int] | None:
    """A file's size in bytes and the sum of its times of change in ns; None where it cannot be found.

    Both times count: a program may set the one of the content, and only Linux's other one always moves with it.
    """
    with suppress(OSError, ValueError):
        state = os.stat(path)
        return state.st_size, state.st_mtime_ns + state.st_ctime_ns
    return None


@cache
def _tell(text: str) -> None:
    """Prints a note, once a process."""
    print(printable(f"note: {text}"))


class _Folder:
    """What is remembered of the images of a folder: ``[size, time, width, height, orientation, digest, bits]`` by name.

    A cache that is damaged or was written by another version is made anew; one that cannot be written is done without.
    """

    def __init__(self, folder: str, cache: Path) -> None:
        self.folder = folder
        name = hashlib.sha1(os.fsencode(folder), usedforsecurity=False).hexdigest()[:32]
        self.file = cache / f"{name}.json"
        self.rows = self._read()

    def _read(self) -> dict[str, list]:
        try:
            saved = json.loads(self.file.read_bytes())
            if saved["format"] != _FORMAT:
                return {}
            rows = saved["images"]
            kinds = [int, int, int, int, int, str, int]
            if saved["folder"] == self.folder and all(
                [type(value) for value in row] == kinds and row[2] > 0 < row[3] and 1 <= row[4] <= 8
                for row in rows.values()
            ):
                return rows
        except OSError:  # it is not there, or saving it will say what is wrong
            return {}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass
        _tell(f"{self.file}: is damaged and made anew")
        return {}

    def recall(self, path: Path) -> ImageFacts | None:
        row = self.rows.get(path.name)
        if row is None or _state(path) != tuple(row[:2]):
            return None
        width, height, orientation, digest, bits = row[2:]
        return ImageFacts(width, height, orientation, "", digest, bits)

    def note(self, path: Path, state: tuple[int, int], facts: ImageFacts) -> None:
        kept = [*state, facts.width, facts.height, facts.orientation, facts.digest, facts.bits]
        self.rows[path.name] = kept

    def save(self) -> None:
        try:
            here = set(os.listdir(self.folder))
            self.rows = {name: row for name, row in self.rows.items() if name in here}
            saved = {"format": _FORMAT, "folder": self.folder, "images": self.rows}
            self.file.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.file.with_name(f".{self.file.name}.{os.getpid()}.tmp")
            try:
                temporary.write_text(json.dumps(saved, separators=(",", ":")), encoding="utf-8")
                os.replace(temporary, self.file)  # without fsync: a damaged cache is only made anew
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            _tell(f"{self.file.parent}: cannot be written ({reason(error)}): images are decoded anew at each start")


@cache
def _folder(folder: str, cache: Path) -> _Folder:
    """What is remembered of a folder, also within this process, for where nothing can be written."""
    return _Folder(folder, cache)


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME", "")
    # The specification ignores relative paths. A user without a home has "~" left: nothing can be written there.
    home = home if os.path.isabs(home) else os.path.expanduser("~/.cache")
    return Path(home if os.path.isabs(home) else os.devnull, "divdet", "images")
