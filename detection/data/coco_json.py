"""Reading COCO JSON files: what ground truth and results files have in common.

``*_problem`` functions return what is wrong with one entry as the end of a sentence, or None; ``entry_error`` makes
it the whole sentence.
"""

from __future__ import annotations

import gc
import json
import re
import reprlib
from pathlib import Path
from typing import Any

from divdet.engine.errors import UserError
from divdet.engine.files import refuse_special

MAX_ID = 2**63 - 1
MAX_COORDINATE = 1e9  # pixels: far beyond any image, and far from float32's overflow
TEXT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]+")  # no control characters, and encodable as UTF-8


def read_json(path: Path) -> Any:
    """The parsed content of a JSON file; UserError where it cannot be read or parsed."""
    collecting = gc.isenabled()
    gc.disable()  # a parsed file holds no cycles, and looking for them among its objects took two thirds of the time
    try:
        refuse_special(path)
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise UserError(f"{path}: its JSON is nested too deeply to be COCO data") from error
    except ValueError as error:
        # Bytes that are no text, or an integer of thousands of digits.
        raise UserError(f"{path}: not JSON: {_one_line(error)}") from error
    finally:
        if collecting:
            gc.enable()


def check_objects(path: Path, entries: Any, key: str) -> list[dict[str, Any]]:
    """``entries`` itself if it is a list of objects, else UserError; ``key`` names it in the message."""
    if not isinstance(entries, list):
        raise UserError(f"{path}: {key} is {_kind(entries)}, not a list")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f"{path}: {key}[{index}] is {_kind(entry)}, not an object")
    return entries


def is_id(value: Any) -> bool:
    """Whether a JSON value can be an id: an integer (true, 3.0 and "3" are not) that fits 64 bits."""
    return type(value) is int and -MAX_ID <= value <= MAX_ID


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number of at most ``MAX_COORDINATE``."""
    # NaN and the infinities fail the comparison.
    return type(value) in (int, float) and -MAX_COORDINATE <= value <= MAX_COORDINATE


def is_text(value: Any) -> bool:
    """Whether a JSON value is a string fit for a name: not empty, without control characters, encodable."""
    return isinstance(value, str) and TEXT.fullmatch(value) is not None


def bbox_problem(entry: dict[str, Any]) -> str | None:
    """What is wrong with ``entry['bbox']``, [x, y, w, h] in pixels, or None."""
    bbox = entry.get("bbox")
    if type(bbox) is list and len(bbox) == 4:
        x, y, w, h = bbox
        if is_number(x) and is_number(y) and is_number(w) and is_number(h):
            return None
    if "bbox" not in entry:
        return "has no bbox"
    return f"has bbox {show(bbox)}, which is not four finite numbers [x, y, width, height]"


def id_problem(entry: dict[str, Any], key: str) -> str | None:
    """What is wrong with the id under ``key``, or None."""
    if is_id(entry.get(key)):
        return None
    if key not in entry:
        return f"has no {key}"
    what = "does not fit 64 bits: renumber the file" if type(entry[key]) is int else "is not an integer"
    return f"has {key} {show(entry[key])}, which {what}"


def show(value: Any) -> str:
    """A JSON value for a message: one line, shortened."""
    return _one_line(repr(value) if isinstance(value, str) and len(value) < 200 else reprlib.repr(value))


def entry_error(path: Path, key: str, index: int, entry: dict[str, Any], problem: str) -> UserError:
    """The error for one entry of the list ``key``: file, position, id and ``problem``."""
    identity = f" (id {entry['id']})" if is_id(entry.get("id")) else ""
    return UserError(f"{path}: {key}[{index}]{identity} {problem}")


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")


def _one_line(value: object) -> str:
    return " ".join(str(value).split())
