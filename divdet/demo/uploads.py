"""Reading what somebody uploads."""

from pathlib import Path

import numpy as np

from divdet.engine.errors import UserError
from divdet.engine.images import read_bytes
from divdet.engine.uploads import decode_upload


def read_upload(path: str | Path, max_pixels: int, orient: bool) -> np.ndarray:
    """Decodes an image file as ``decode_upload`` does its content; raises UserError also where it is gone."""
    name = Path(path).name
    if not Path(path).is_file():
        raise UserError(f"{name} has been removed since: choose it again")
    return decode_upload(read_bytes(path), name, max_pixels, orient)
