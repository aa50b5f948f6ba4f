"""Finding image files, and reading them in the pixel layout that their boxes assume."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from engine.errors import UserError
from engine.images import decode_image, read_bytes

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def read_image(source: str | Path | bytes, size: tuple[int, int] | None = None, orient: bool = False) -> np.ndarray:
    """Decode an image file, or its bytes, to uint8 RGB [H, W, 3], contiguous.

    Gray, palette and CMYK images become RGB, 16 bits are scaled to 8, and alpha is dropped; of an animation the first
    frame is read. ``orient`` applies the EXIF orientation, which COCO's annotations ignore and a person's photos need.
    ``size`` (width, height) is what annotations state: the stored layout is taken if it has that size, else the
    EXIF-oriented one if that has it.

    Raises UserError for a file that is missing, unreadable, cut off, not an image, or of another size than ``size``.
    """
    name, data = ("the image", source) if isinstance(source, bytes) else (str(source), read_bytes(source))
    if size is None:
        return decode_image(data, name, orient)
    stored = decode_image(data, name, orient=False)
    if stored.shape[1::-1] == tuple(size):
        return stored
    oriented = decode_image(data, name, orient=True)
    if oriented.shape[1::-1] == tuple(size):
        return oriented
    height, width = stored.shape[:2]
    raise UserError(
        f"{name}: the image has {width}x{height} pixels, but its annotations say {size[0]}x{size[1]}; "
        "use the images that were annotated"
    )


def find_images(sources: Sequence[str | Path]) -> list[Path]:
    """The image files that ``sources`` name, each once, in order.

    A source is a file, a folder (its images by name, without those of its subfolders) or a glob pattern (``**`` for
    any depth, images only, by name). Raises UserError for a source that gives no image.
    """
    found: dict[Path, None] = {}
    for source in sources:
        images = list(_images_of(Path(source)))
        if not images:
            raise UserError(f"{source}: no image found: name an image file, a folder with images, or a quoted pattern")
        found.update(dict.fromkeys(images))
    return list(found)


def _images_of(source: Path) -> Iterator[Path]:
    if os.path.isfile(source):  # unlike Path.is_file also false for a name that is too long
        yield source
        return
    pattern = os.path.join(glob.escape(str(source)), "*") if os.path.isdir(source) else str(source)
    for path in map(Path, sorted(glob.glob(pattern, recursive=True))):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            yield path
