"""Finding image files, and decoding any of them to 8-bit RGB."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from engine.errors import UserError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

# What OpenCV would log about a damaged image, the UserError says.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def read_image(source: str | Path | bytes, size: tuple[int, int] | None = None, orient: bool = False) -> np.ndarray:
    """Decode an image file, or its bytes, to uint8 RGB [H, W, 3], contiguous.

    Gray, palette and CMYK images become RGB, 16 bits are scaled to 8, and alpha is dropped; of an animation the first
    frame is read. ``orient`` applies the EXIF orientation, which COCO's annotations ignore and a person's photos need.
    ``size`` (width, height) is what annotations state: the stored layout is taken if it has that size, else the
    EXIF-oriented one if that has it.

    Raises UserError for a file that is missing, unreadable, cut off, not an image, or of another size than ``size``.
    """
    name, data = ("the image", source) if isinstance(source, bytes) else (str(source), _read_bytes(source))
    if size is None:
        return _decode(name, data, orient)
    stored = _decode(name, data, orient=False)
    if stored.shape[1::-1] == tuple(size):
        return stored
    oriented = _decode(name, data, orient=True)
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
    if source.is_file():
        yield source
        return
    pattern = os.path.join(glob.escape(str(source)), "*") if source.is_dir() else str(source)
    for path in map(Path, sorted(glob.glob(pattern, recursive=True))):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            yield path


def _read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the image cannot be read: {error.strerror}") from error


def _decode(name: str, data: bytes, orient: bool) -> np.ndarray:
    flags = cv2.IMREAD_COLOR_RGB if orient else cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    if not data:
        raise UserError(f"{name}: the image file is empty; replace it")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise UserError(f"{name}: the image cannot be decoded: {' '.join(error.err.split())}") from error
    if image is None:
        raise UserError(f"{name}: not an image, or one that is damaged or cut off; replace the file")
    return image
