"""Checksums at the end of exported files, of all that stands before them."""

import hashlib
import re
from pathlib import Path

from divdet.engine.errors import UserError
from divdet.engine.files import refuse_special

_CHECKSUM = "divdet_sha256"
_XML_SEAL = b"<!-- divdet_sha256 %s -->\n"  # XML allows comments behind the document


def onnx_entry(key: str, value: str) -> bytes:
    """One of an ONNX model's ``metadata_props`` to append to the model: protobuf merges what is concatenated."""

    def field(number: int, content: bytes) -> bytes:
        return _varint(number << 3 | 2) + _varint(len(content)) + content

    return field(14, field(1, key.encode()) + field(2, value.encode()))


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def sealed_onnx(model: bytes) -> bytes:
    """An ONNX model with its checksum, the last entry of its metadata."""
    return model + onnx_entry(_CHECKSUM, hashlib.sha256(model).hexdigest())


def sealed_xml(xml: bytes, weights: bytes) -> bytes:
    """An OpenVINO model with its checksum, over the weights of the .bin, too, as a comment."""
    return xml + _XML_SEAL % hashlib.sha256(xml + weights).hexdigest().encode()


def read_onnx(path: Path) -> bytes:
    """Reads what ``sealed_onnx`` made. Raises UserError where it is damaged or another file."""
    content = _read(path)
    length = len(sealed_onnx(b""))
    if content[-length:] != sealed_onnx(content[:-length])[-length:]:
        raise _unsealed(path, _CHECKSUM.encode() in content[-length:])
    return content


def read_openvino(path: Path) -> tuple[bytes, bytes]:
    """Reads the .xml that ``sealed_xml`` made, and its .bin. Raises UserError where they are damaged or other files."""
    xml, beside = _read(path), path.with_suffix(".bin")
    if not beside.exists():
        raise UserError(f"{beside}: no such file: it holds the weights of {path.name}; keep both in one folder")
    weights = _read(beside)
    seal = re.search(rb"<!-- divdet_sha256 \w+ -->\s*$", xml)
    if not seal or sealed_xml(xml[: seal.start()], weights) != xml:
        raise _unsealed(path, bool(seal))
    return xml, weights


def _read(path: Path) -> bytes:
    try:
        refuse_special(path)
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def _unsealed(path: Path, has_seal: bool) -> UserError:
    if has_seal:
        beside = f" or {path.stem}.bin" if path.suffix == ".xml" else ""
        return UserError(f"{path}: its checksum does not match: it{beside} is damaged; copy or export it again")
    return UserError(f"{path}: cut off, or not written by divdet export: it has no checksum; export it again")
