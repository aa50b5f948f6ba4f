"""Finding image files, and reading them in the pixel layout that their boxes assume."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from divdet.engine.errors import UserError, printable
from divdet.engine.images import decode_image, read_bytes

# What OpenCV decodes as pictures; find_images says how many other files it skips.
IMAGE_SUFFIXES = frozenset(
    {
        ".apng",
        ".avif",
        ".bmp",
        ".dib",
        ".gif",
        ".j2c",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpc",
        ".jpe",
        ".jpeg",
        ".jpf",
        ".jpg",
        ".jpx",
        ".mpo",
        ".pam",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".ras",
        ".tif",
        ".tiff",
        ".webp",
    }
)


def read_image(source: str | Path | bytes, size: tuple[int, int] | None = None, orient: bool = False) -> np.ndarray:
    """Decode an image file, or its bytes, to uint8 RGB [H, W, 3], contiguous.

    Gray, palette and CMYK images become RGB, 16 bits are scaled to 8, and alpha is dropped; of an animation the first
    frame is read. ``orient`` applies the EXIF orientation. ``size`` (width, height) is what annotations state: where
    the layout that ``orient`` asks for has another size, the other one is taken if it fits.

    Raises UserError for a file that is missing, unreadable, cut off, not an image, or of another size than ``size``.
    """
    name, data = ("the image", source) if isinstance(source, bytes) else (str(source), read_bytes(source))
    image = decode_image(data, name, orient)
    if size is None or image.shape[1::-1] == tuple(size):
        return image
    other = decode_image(data, name, not orient)
    if other.shape[1::-1] == tuple(size):
        return other
    height, width = (other if orient else image).shape[:2]
    raise UserError(
        f"{name}: the image has {width}x{height} pixels, but its annotations say {size[0]}x{size[1]}; "
        "use the images that were annotated"
    )


def find_images(sources: Sequence[str | Path]) -> list[Path]:
    """The image files that ``sources`` name, each once, in order.

    A source is a file, a folder (its images by name, without those of its subfolders) or a glob pattern (``**`` for
    any depth, images only, by name). Images are recognized by suffix; the number and kinds of other files are
    printed, and the number of subfolders. Raises UserError for a source that gives no image.
    """
    found: dict[str, Path] = {}
    for source in sources:
        images, others = _images_of(Path(source))
        kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in others.most_common(9))
        if not images:
            held = f" among {others.total()} files ({kinds})" if others else ""
            held += f"; subfolders are searched by '{source}/**'" if _subfolders(source) else ""
            raise UserError(
                f"{source}: no image found{held}: name an image file, a folder with images, or a quoted pattern"
            )
        if others:
            print(printable(f"{source}: {len(images)} images; skipped {others.total()} other files ({kinds})"))
        if subfolders := _subfolders(source):
            print(printable(f"{source}: {subfolders} subfolders are not searched; '{source}/**' would"))
        for image in images:
            found.setdefault(os.path.abspath(image), image)
    return list(found.values())


def _subfolders(source: str | Path) -> int:
    """The number of folders in a source that is one."""
    if not os.path.isdir(source):
        return 0
    with os.scandir(source) as entries:
        return sum(entry.is_dir() for entry in entries)


def _images_of(source: Path) -> tuple[list[Path], Counter[str]]:
    """The images of a source, and the number of its other files by suffix."""
    if os.path.isfile(source):  # unlike Path.is_file also false for a name that is too long
        return [source], Counter()
    pattern = os.path.join(glob.escape(str(source)), "*") if os.path.isdir(source) else str(source)
    images: list[Path] = []
    others: Counter[str] = Counter()
    for path in map(Path, sorted(glob.glob(pattern, recursive=True))):
        suffix = path.suffix.lower()
        if path.is_file() and suffix in IMAGE_SUFFIXES:
            images.append(path)
        elif path.is_file():
            others[suffix] += 1
    return images, others
