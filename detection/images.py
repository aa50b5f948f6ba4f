"""Reading images in the pixel layout that their boxes assume."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from divdet.engine.errors import UserError
from divdet.engine.images import decode_image, read_bytes


def read_image(source: str | Path | bytes, size: tuple[int, int] | None = None, orient: bool = False) -> np.ndarray:
    """Decodes an image file or its bytes.

    Gray, palette and CMYK images become RGB, 16 bits are scaled to 8, and alpha is dropped. Of an animation the first
    frame is read.

    Args:
        source: a path, an http(s) address, or an encoded image.
        size: ``(width, height)`` by the annotations. If only the other layout (with or without the EXIF orientation)
            has that size, it is returned instead. If neither has, UserError is raised.
        orient: apply the EXIF orientation.

    Returns:
        uint8 RGB ``[H, W, 3]``, contiguous.
    """
    if isinstance(source, bytes):
        name, data = "the image", source
    else:
        name = str(source)
        if name.lower().startswith(("http://", "https://")):
            from divdet.engine.addresses import fetch, hide_password  # imported here: most images are files

            name, data = hide_password(name), fetch(name)
        else:
            data = read_bytes(source)
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


def as_rgb(image: Any, name: str, bgr: bool, orient: bool) -> np.ndarray:
    """Turns any kind of image that ``Detector.predict`` takes into an array.

    Args:
        image: a path, encoded bytes or a file of them, a PIL image, or a uint8 array or tensor ``[H, W, 3]``.
        name: of the image, for error messages.
        bgr: arrays and tensors are BGR.
        orient: apply the EXIF orientation of files and PIL images.

    Returns:
        uint8 RGB ``[H, W, 3]``; an array that is already RGB is returned itself.
    """
    if isinstance(image, str | os.PathLike):
        try:
            return read_image(os.fspath(image), orient=orient)
        except UserError as error:
            from detection.sources import explained  # imported here, because images seldom fail

            raise explained(os.fspath(image), error) from error
    if hasattr(image, "read"):  # an open file
        image = image.read()
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(image, name, orient)
    if is_pil(image):
        from detection.pil_images import decode_pil  # imported here: most images are files

        image, bgr = decode_pil(image, name, orient), False
    kind = type(image).__name__
    if isinstance(image, np.ndarray | Tensor):
        kind = f"{str(image.dtype).removeprefix('torch.')} {list(image.shape)}"
        if kind.startswith("uint8 ") and image.ndim == 3 and image.shape[2] == 3 and 0 not in image.shape:
            array = image.cpu().numpy() if isinstance(image, Tensor) else image
            return np.ascontiguousarray(array[..., ::-1]) if bgr else array
    raise UserError(
        f"{name} is {kind}: give a path, encoded bytes, a PIL image, or an RGB uint8 array or tensor [H, W, 3] "
        "(bgr=True for OpenCV's BGR)"
    )


def source_of(image: Any, array: np.ndarray) -> np.ndarray | str | os.PathLike | bytes:
    """What a result keeps of an image that ``as_rgb`` made an array of: of a file not its pixels, which may be many."""
    return image if isinstance(image, str | os.PathLike | bytes) else array


def named_images(images: Any) -> tuple[Iterator[tuple[str, Any]], bool, bool]:
    """What ``predict`` was given: each image with its name for messages; whether it is one; whether a list is due.

    Raises:
        UserError: for what is neither an image nor several.
    """
    array = isinstance(images, np.ndarray | Tensor)
    single = isinstance(images, str | bytes | bytearray | memoryview | os.PathLike)
    single = single or is_pil(images) or hasattr(images, "read")
    single = single or (array and images.ndim in (0, 2, 3))
    if not single and (not isinstance(images, Iterable) or isinstance(images, Mapping)):
        raise UserError(f"predict takes an image or a list of images, not {type(images).__name__}")
    named = [("the image", images)] if single else ((f"images[{n}]", image) for n, image in enumerate(images))
    return iter(named), single, array or isinstance(images, Sequence)


def check_threshold(score_threshold: Any) -> None:
    """Raises UserError for an argument of ``predict`` that is not 0 to 1."""
    number = isinstance(score_threshold, Real) and not isinstance(score_threshold, bool)
    if not number or not 0 <= score_threshold <= 1:
        raise UserError(f"score_threshold is {score_threshold!r}: choose a number from 0 to 1")


def check_bgr(bgr: Any) -> None:
    """The same of ``bgr``."""
    if not isinstance(bgr, bool):
        raise UserError(f"bgr is {bgr!r}: choose True (arrays are BGR, as OpenCV reads them) or False (RGB)")


def is_pil(image: Any) -> bool:
    """Whether it is a PIL image. Does not import PIL: a caller with a PIL image has already imported it."""
    return "PIL.Image" in sys.modules and isinstance(image, sys.modules["PIL.Image"].Image)
