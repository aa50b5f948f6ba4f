"""What the image files of a data set are like: sizes, EXIF orientation, content, and which cannot be decoded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from detection.images import read_image
from divdet.engine.errors import UserError
from divdet.engine.exif import read_turned


class ImageFacts(NamedTuple):
    """What an image file is like.

    Attributes:
        width, height: pixels as stored, before any EXIF rotation; 0 where it cannot be decoded.
        orientation: EXIF orientation that rotates or mirrors it (2 to 8), else 1.
        fault: why it cannot be decoded, as the end of a sentence; empty where it can.
    """

    width: int
    height: int
    orientation: int
    fault: str = ""

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height after the EXIF rotation."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def index_images(paths: Iterable[Path]) -> dict[Path, ImageFacts]:
    """Decodes image files; returns what each is like. No image raises: see ``ImageFacts.fault``."""
    found = {}
    for path in paths:
        turned = read_turned(path)
        try:
            height, width = read_image(path, None, False).shape[:2]
            found[path] = ImageFacts(width, height, turned[0] if turned else 1)
        except UserError as error:
            found[path] = ImageFacts(0, 0, 1, str(error).removeprefix(f"{path}: "))
    return found
