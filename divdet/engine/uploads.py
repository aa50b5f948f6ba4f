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
        UserError: for what is not an image, is cut off, or is of a format that Pillow does not know, such as Radiance.
    """
    if data[4:12] in _APPLE:
        raise UserError(f"{name}: a HEIC photo, which is not read here; save it as JPEG or PNG")
    if data and _pixels(data, name) > max_pixels:
        raise TooManyPixels(f"{name}: has more than {max_pixels} pixels; shrink it")
    return decode_image(data, name, orient)


def _pixels(data: bytes, name: str) -> float:
    """Width times height by the header; raises UserError where Pillow finds none: decoding might know no limit."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images, which are what this is for
        try:
            with Image.open(io.BytesIO(data)) as image:
                return image.width * image.height
        except Image.DecompressionBombError:
            return math.inf
        except Exception as error:  # damaged headers raise many kinds
            raise UserError(f"{name}: not an image, or one that is damaged or cut off; replace the file") from error
