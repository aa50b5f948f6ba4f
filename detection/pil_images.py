"""Images of Pillow as arrays."""

import numpy as np
from PIL import Image

from divdet.engine.errors import UserError

_EXIF_ORIENTATION = 0x0112
# Names in PIL.Image.Transpose by EXIF orientation, from 2 on
_TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
_TRANSPOSE = dict(enumerate(_TURNS, start=2))


def decode_pil(image: Image.Image, name: str, orient: bool) -> np.ndarray:
    """Decodes a PIL image to uint8 RGB ``[H, W, 3]``; ``name`` and ``orient`` as of ``detection.images.as_rgb``."""
    if image.mode in ("I", "F"):
        range_unknown = "its range of values is unknown: scale it to 8 bits first (convert alone clips them)"
        raise UserError(f"{name} is a PIL image of mode {image.mode}: {range_unknown}")
    try:
        image.load()
        # Not by ImageOps.exif_transpose, which rewrites the EXIF data and fails on some files that Pillow can read.
        turn = _TRANSPOSE.get(image.getexif().get(_EXIF_ORIENTATION)) if orient else None
        upright = image.transpose(getattr(Image.Transpose, turn)) if turn else image
        if image.mode.startswith("I;16"):  # 16 bits become 8 as in files; Pillow's convert clips them
            return np.repeat((np.asarray(upright) >> 8).astype(np.uint8)[..., None], 3, axis=2)
        return np.asarray(upright.convert("RGB"))
    except Exception as error:  # Pillow decodes here, and damaged EXIF raises many kinds
        raise UserError(f"{name} is a PIL image that cannot be decoded: {error}") from error
