"""Checks that what ``torch.export.load`` would read can do nothing but compute.

It unpickles some records, evaluates symbolic expressions, and looks up each node's function by name anywhere in torch,
whose modules import Python's ``os``.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from divdet.engine.archive import check_archive
from divdet.engine.errors import UserError
from divdet.engine.files import refuse_special

_GRAPH, _KNOWN, _EXAMPLE = "models/model.json", "extra/divdet.json", "data/sample_inputs/model.pt"
_CONFIGS = {"data/weights/model_weights_config.json": r"weight_\d+"}
_CONFIGS |= {"data/constants/model_constants_config.json": r"tensor_\d+"}
_RECORDS = re.compile(
    "|".join(map(re.escape, (_GRAPH, _KNOWN, _EXAMPLE, *_CONFIGS)))
    + r"|data/weights/weight_\d+|data/constants/tensor_\d+"
    + r"|archive_format|archive_version|byteorder|\.data/version|\.data/serialization_id"
)
_FUNCTION = re.compile(
    r"torch\.ops\.aten\.(?!from_file)(\w+)\.(\w+)|torch\.ops\.divdet\.kept_boxes\.default|_operator\.(?:mul|getitem)"
)
_EXPRESSION = re.compile(
    r"(?:\b(?:Add|Mul|Pow|Min|Max|FloorDiv|Mod|Integer|Symbol|positive=True|integer=True|s\d+)\b|'s\d+'|[-+*/(), \d])*"
)
_SPEC_TYPES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}
# Functions, graphs and objects as arguments
_FOREIGN = {"as_operator", "as_graph", "as_custom_obj", "as_opaque_obj"}


def read_known(path: Path) -> str:
    """Checks a file that ``write_torch`` wrote, and reads what it says of itself.

    Raises:
        UserError: where it is missing, damaged or another file, or could do more than compute. Nothing is executed.
    """
    try:
        refuse_special(path)
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            folder = archive.namelist()[0].partition("/")[0] + "/"
            _check([name.removeprefix(folder) for name in archive.namelist()], lambda name: archive.read(folder + name))
            return archive.read(folder + _KNOWN).decode()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _Unsafe as error:
        raise UserError(f"{path}: refused, since divdet export does not write {error}; export it again") from error
    except Exception as error:  # zipfile, json and look-ups raise a dozen kinds
        raise UserError(f"{path}: damaged, or not written by divdet export ({error}); export it again") from error


class _Unsafe(Exception):
    pass


def _check(names: list[str], read: Any) -> None:
    for name in names:
        if not _RECORDS.fullmatch(name):
            raise _Unsafe(f"a record {name:.100}")
    if read(_EXAMPLE):
        raise _Unsafe("example inputs, which would be unpickled")
    for config, file in _CONFIGS.items():
        for key, entry in json.loads(read(config))["config"].items():
            if entry["use_pickle"] is not False or not re.fullmatch(file, entry["path_name"]):
                raise _Unsafe(f"a pickled {key:.100}")
    program = json.loads(read(_GRAPH))
    if program["guards_code"]:
        raise _Unsafe("code that guards the network")
    left: list[Any] = [program]
    while left:
        part = left.pop()
        left += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        if not isinstance(part, dict):
            continue
        if found := _FOREIGN & part.keys():
            raise _Unsafe(f"an argument {found.pop()}")
        if "target" in part and "inputs" in part and (part["metadata"] or not _is_function(part["target"])):
            raise _Unsafe(f"a node {part['target']!s:.100}")
        if "expr_str" in part and not _is(_EXPRESSION, part["expr_str"]):
            raise _Unsafe(f"an expression {part['expr_str']!s:.100}")
        for key in ("in_spec", "out_spec"):
            if key in part:
                _check_spec(key, json.loads(part[key])[1])


def _check_spec(key: str, spec: dict[str, Any]) -> None:
    """Refuses what torch would look up or import: types by name, and enumerations in a type's context."""
    kind, context = spec["type"], spec["context"]
    if not (kind is None or isinstance(kind, str)) or kind not in _SPEC_TYPES or context not in (None, "null", "[]"):
        raise _Unsafe(f"an {key} of {kind!s:.100} with context {context!s:.100}")
    for child in spec["children_spec"]:
        _check_spec(key, child)


def _is_function(target: Any) -> bool:
    """Whether a name is that of an operator; others below ``torch.ops.aten`` are Python's (``__class__``, say)."""
    found = isinstance(target, str) and _FUNCTION.fullmatch(target)
    if not found or found[1] is None:
        return bool(found)
    return isinstance(getattr(getattr(torch.ops.aten, found[1], None), found[2], None), torch._ops.OpOverload)


def _is(pattern: re.Pattern[str], text: Any) -> bool:
    return isinstance(text, str) and bool(pattern.fullmatch(text))
