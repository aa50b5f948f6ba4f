"""Decodes images to 8-bit RGB."""

import os
import re
import struct
from pathlib import Path

import cv2
import numpy as np

from divdet.engine.errors import UserError
from divdet.engine.files import refuse_special

# The UserError says what OpenCV would log about a damaged image.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_LIMIT = "OPENCV_IO_MAX_IMAGE_PIXELS"  # set by divdet/engine/__init__.py


def read_bytes(path: str | Path) -> bytes:
    """Reads an image file; raises UserError where it cannot be read."""
    refuse_special(path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the image cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: the image cannot be read: no file has such a name") from error


def decode_image(data: bytes | np.ndarray, name: str, orient: bool = True) -> np.ndarray:
    """Decodes an image to uint8 RGB ``[H, W, 3]``.

    Args:
        data: the file's content, as bytes or uint8 ``[n]``.
        name: of the image, for error messages.
        orient: apply the EXIF orientation.

    Raises:
        UserError: if it is not an image, or is cut off.
    """
    flags = cv2.IMREAD_COLOR_RGB if orient else cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    if not len(data):
        raise UserError(f"{name}: the image file is empty; replace it")
    if bytes(data[:4]) == b"\x89PNG":
        _check_png(data, name)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if "MAX_IMAGE_PIXELS" in error.err:
            raise _too_large(name) from error
        raise UserError(f"{name}: the image cannot be decoded: {' '.join(error.err.split())}") from error
    if image is None:
        raise UserError(f"{name}: not an image, or one that is damaged or cut off; replace the file")
    return image


def _check_png(data: bytes | np.ndarray, name: str) -> None:
    """Rejects a cut-off PNG, of which libpng prints warnings, and a huge one, for which OpenCV allocates gigabytes."""
    position, chunk = 8, b""
    while chunk != b"IEND":
        if position + 12 > len(data):
            raise UserError(f"{name}: the image is cut off; replace the file")
        length, chunk = struct.unpack_from(">I4s", data, position)
        position += 12 + length
    width, height = struct.unpack_from(">II", data, 16) if len(data) >= 24 else (0, 0)
    if width * height > _pixel_limit():
        raise _too_large(name)


def _pixel_limit() -> int:
    """Returns OpenCV's limit, which users may have set as a number with or without a unit."""
    text = os.environ.get(_LIMIT, "")
    number = re.fullmatch(r"(\d+)(KB|MB|GB)?", text.strip(), re.IGNORECASE)
    if not number:
        raise UserError(f"{_LIMIT} is {text!r} in the environment: set a number of pixels, or remove it")
    return int(number[1]) * 2 ** (10 * ("", "KB", "MB", "GB").index((number[2] or "").upper()))


def _too_large(name: str) -> UserError:
    return UserError(
        f"{name}: the image says that it has more than {os.environ[_LIMIT]} pixels; shrink it, or set {_LIMIT} in the "
        "environment"
    )
