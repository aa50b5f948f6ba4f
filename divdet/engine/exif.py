"""EXIF orientation, read from the first bytes of a file as OpenCV reads it.

Not by Pillow: it ignores EXIF that OpenCV applies (behind a PNG's pixels, with a damaged byte order), refuses photos of
more than 179 megapixels, and takes twice as long.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO

_ORIENTATION = 274  # tag number
_TEXTS = (270, 271, 272)  # text tags, which come before it
_MAX_EXIF = 2**24  # bytes that are read, whatever length a damaged file gives
_SIZE_SEGMENTS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG: start of frame

Header = tuple[int | None, int, int]


def read_turned(path: str | Path) -> tuple[int, int, int] | None:
    """Return the EXIF orientation and size of a JPEG, PNG or WebP file that EXIF rotates or mirrors.

    Other formats leave no choice: OpenCV rotates every TIFF and no AVIF.

    Returns:
        Orientation (2 to 8; from 5 on width and height change places), width and height as stored. None for all other
        files, also unreadable ones: decoding them will raise the error.
    """
    try:
        if not os.path.isfile(path):
            return None
        with open(path, "rb", buffering=512) as file:
            magic = file.read(12)
            if magic[:2] == b"\xff\xd8":
                header = _jpeg(file)
            elif magic[:8] == b"\x89PNG\r\n\x1a\n":
                header = _png(file)
            elif magic[:4] == b"RIFF" and magic[8:] == b"WEBP":
                header = _webp(file)
            else:
                return None
    except (OSError, struct.error):
        return None
    return header if header[0] in range(2, 9) else None


def _jpeg(file: BinaryIO) -> Header:
    orientation, width, height = None, 0, 0
    file.seek(2)
    while file.read(1) == b"\xff":
        while (code := file.read(1)) == b"\xff":  # fill bytes
            pass
        if code in (b"", b"\xd9", b"\xda"):  # the pixels follow
            break
        length = struct.unpack(">H", file.read(2))[0] - 2
        if length < 0:
            break
        body = file.read(length)
        if code == b"\xe1" and body.startswith(b"Exif\0\0") and orientation is None:
            orientation = _orientation(body[6:])
        elif code[0] in _SIZE_SEGMENTS:
            height, width = struct.unpack_from(">HH", body, 1)
    return orientation, width, height


def _png(file: BinaryIO) -> Header:
    file.seek(16)  # behind the signature, and IHDR's length and name
    width, height = struct.unpack(">II", file.read(8))
    file.seek(33)
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"eXIf":
            return _orientation(file.read(min(length, _MAX_EXIF))), width, height
        file.seek(length + 4, os.SEEK_CUR)  # 4: the checksum
    return None, width, height


def _webp(file: BinaryIO) -> Header:
    head = file.read(18)
    if head[:4] != b"VP8X" or len(head) < 18 or not head[8] & 8:  # the flag for EXIF
        return None, 0, 0
    width, height = (1 + int.from_bytes(head[at : at + 3], "little") for at in (12, 15))
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"EXIF":
            return _orientation(file.read(min(length, _MAX_EXIF))), width, height
        file.seek(length + length % 2, os.SEEK_CUR)
    return None, width, height


def _orientation(exif: bytes) -> int | None:
    """The orientation in the first directory of EXIF's TIFF structure."""
    order = "<" if exif[:2] == b"II" else ">"
    mark, start = struct.unpack_from(f"{order}2xHI", exif)
    if mark != 42:
        return None
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, length, place = struct.unpack_from(f"{order}H2xII", exif, at)
        if tag == _ORIENTATION:
            return struct.unpack_from(f"{order}H", exif, at + 8)[0]
        if tag in _TEXTS and length > 4 and place + length > len(exif):  # OpenCV stops here, too
            return None
    return None
