"""Reading what somebody uploads: bounded before it is decoded."""

import io
import math
import warnings
from pathlib import Path

import numpy as np

from detection.images import as_rgb
from divdet.engine.errors import UserError
from divdet.engine.images import read_bytes

_APPLE = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1", b"ftyphevc")


def read_upload(path: str | Path, most_megapixels: float, orient: bool) -> np.ndarray:
    """Decodes an image file as ``Detector.predict`` does, unless it says that it has more pixels than allowed.

    Args:
        path: the file.
        most_megapixels: the limit, in a million pixels.
        orient: apply the EXIF orientation.

    Returns:
        uint8 RGB ``[H, W, 3]``.

    Raises:
        UserError: for a file that is gone, too large, or no image.
    """
    name = Path(path).name
    if not Path(path).is_file():
        raise UserError(f"{name} has been removed since: choose it again")
    data = read_bytes(path)
    if data[4:12] in _APPLE:
        raise UserError(f"{name} is a HEIC photo, which is not read here: save it as JPEG or PNG")
    if _megapixels(data) > most_megapixels:
        raise UserError(f"{name} has more than {most_megapixels:g} million pixels: shrink it first")
    return as_rgb(data, name, bgr=False, orient=orient)


def _megapixels(data: bytes) -> float:
    """By the file's header; 0 where Pillow does not know it: decoding, which has a limit of its own, will decide."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images, which are what this is for
        try:
            with Image.open(io.BytesIO(data)) as image:
                return image.width * image.height / 1e6
        except Image.DecompressionBombError:
            return math.inf
        except Exception:  # damaged headers raise many kinds
            return 0
