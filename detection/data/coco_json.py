"""Reading and checking COCO JSON, ground truth and results alike."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from detection.data.entry_values import Fault, is_number, one_line, show
from detection.data.faults import DataFault
from divdet.engine.errors import UserError
from divdet.engine.files import refuse_special

_MAX_ID = 2**63 - 1
_KINDS = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}

Row = TypeVar("Row")


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pauses the search for cycles: parsed JSON has none, and searching it took two thirds of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@gc_paused()
def read_json(path: Path) -> Any:
    """Return the parsed content of a JSON file; raise UserError where it cannot be read or parsed."""
    try:
        refuse_special(path)
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            raise UserError(f"{path}: not JSON: it is compressed by gzip: unpack it")
        return json.loads(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise UserError(f"{path}: its JSON is nested too deeply to be COCO data") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not JSON: it is no UTF-8 text ({one_line(error)}); save it as UTF-8") from error
    except ValueError as error:  # an integer of thousands of digits
        raise UserError(f"{path}: not JSON: {one_line(error)}") from error


@gc_paused()
def read_entries(
    path: Path,
    key: str,
    entries: Any,
    read: Callable[[dict[str, Any]], Row | None],
    faults: list[DataFault] | None = None,
) -> list[Row]:
    """Return what ``read`` makes of every entry of a list of objects, in order, without its ``None``.

    An entry that is no object, or for which ``read`` raises ``Fault``, is left out and added to ``faults``; without
    ``faults`` the first one raises UserError. Messages name the file and ``key``, the list, unless the entry itself
    holds another ``place`` and ``file``.

    Raises:
        UserError: for what is not a list.
    """
    if not isinstance(entries, list):
        raise UserError(f"{path}: {key} is {_kind(entries)}, not a list")
    rows = []
    for index, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise Fault(f"is {_kind(entry)}, not an object")
            row = read(entry)
            if row is not None:
                rows.append(row)
        except Fault as error:
            fault = _located(path, f"{key}[{index}]", entry, error)
            if faults is None:
                raise UserError(str(fault)) from error
            faults.append(fault)
    return rows


def _located(path: Path, place: str, entry: Any, error: Fault) -> DataFault:
    if isinstance(entry, dict):
        if "place" in entry:
            return DataFault(str(entry.get("file", path)), str(entry["place"]), str(error))
        if is_id(entry.get("id")):
            place += f" (id {entry['id']})"
    return DataFault(str(path), place, str(error))


def bbox_of(entry: dict[str, Any]) -> list[float]:
    """``entry["bbox"]``, [x, y, width, height] in pixels."""
    bbox = entry.get("bbox")
    if type(bbox) is list and len(bbox) == 4:
        x, y, w, h = bbox
        if is_number(x) and is_number(y) and is_number(w) and is_number(h):
            return bbox
    if "bbox" not in entry:
        raise Fault("has no bbox")
    raise Fault(f"has bbox {show(bbox)}, which is not four finite numbers [x, y, width, height]")


def id_of(entry: dict[str, Any], key: str) -> int:
    """The id under ``key``."""
    value = entry.get(key)
    if is_id(value):
        return value
    if key not in entry:
        raise Fault(f"has no {key}")
    what = "does not fit 64 bits: renumber the file" if type(value) is int else "is not an integer"
    raise Fault(f"has {key} {show(value)}, which {what}")


def is_id(value: Any) -> bool:
    """Whether a JSON value is an integer of 64 bits."""
    return type(value) is int and -_MAX_ID <= value <= _MAX_ID  # true, 3.0 and "3" are no ids


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")
