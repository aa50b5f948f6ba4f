"""Images that strangers send: bounded before they are decoded."""

import io
import math
import warnings

import numpy as np

from divdet.engine.errors import UserError
from divdet.engine.images import decode_image

_APPLE = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1", b"ftyphevc")


class TooManyPixels(UserError):
    """An image has more pixels than are allowed."""


def decode_upload(data: bytes, name: str, max_pixels: int, orient: bool) -> np.ndarray:
    """Decodes an image as ``decode_image`` does, unless its header says that it is too large.

    Args:
        data: the file's content.
        name: of the image, for messages.
        max_pixels: largest width times height.
        orient: apply the EXIF orientation.

    Returns:
        uint8 RGB ``[H, W, 3]``.

    Raises:
        TooManyPixels: for an image that is too large.
        UserError: for what is not an image, or is cut off.
    """
    if data[4:12] in _APPLE:
        raise UserError(f"{name}: a HEIC photo, which is not read here; save it as JPEG or PNG")
    if _pixels(data) <= max_pixels:
        image = decode_image(data, name, orient)
        if image.shape[0] * image.shape[1] <= max_pixels:  # of formats whose header Pillow does not know
            return image
    raise TooManyPixels(f"{name}: has more than {max_pixels} pixels; shrink it")


def _pixels(data: bytes) -> float:
    """By the header; 0 where Pillow does not know it: decoding has a limit of its own."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images, which are what this is for
        try:
            with Image.open(io.BytesIO(data)) as image:
                return image.width * image.height
        except Image.DecompressionBombError:
            return math.inf
        except Exception:  # damaged headers raise many kinds; decoding says what is wrong
            return 0
