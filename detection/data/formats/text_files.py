"""YAML and other text files, read with one line for what is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from divdet.engine.errors import UserError
from divdet.engine.files import refuse_special

MAX_YAML = 2**22  # bytes: Objects365's has 20 KB
_MAX_DIGITS = 300  # of a number: YAML's sexagesimal ones take a time that grows by the square


def is_description(path: Path) -> bool:
    """Whether a file describes a data set by its name: YAML, or darknet's."""
    return path.suffix.lower() in (".yaml", ".yml", ".data") and path.is_file()


def is_darknet(path: Path) -> bool:
    """Whether a file is darknet's description of a data set, such as obj.data, by its name."""
    return path.suffix.lower() == ".data" and path.is_file()


def read_description(path: Path) -> Any:
    """The content of a YAML file, or of darknet's lines ``key = value``; raises UserError where it cannot be read."""
    if is_darknet(path):
        pairs = (line.split("#")[0].partition("=") for line in read_text(path).split("\n"))
        data = {key.strip().lower(): value.strip() for key, _, value in pairs if value.strip()}
        return {key: value for key, value in data.items() if key not in ("classes", "backup", "eval", "results")}
    if path.is_file() and path.stat().st_size > MAX_YAML:
        raise UserError(f"{path}: is larger than 4 MiB, which no data.yaml is")
    text = read_text(path)
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            value = getattr(event, "value", "")
            if value == "<<":  # merges of merges double what there is
                raise UserError(f"{path}: merges another section by <<: write out what it stands for")
            if len(value) > _MAX_DIGITS and re.fullmatch(r"[-+]?\d[\w:.]*", value):
                raise UserError(f"{path}: a number of {len(value)} digits is too large")
        return yaml.safe_load(text)
    except RecursionError as error:
        raise UserError(f"{path}: is nested too deeply to be a data.yaml") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:  # also of !!bool x
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


def read_text(path: Path) -> str:
    """A UTF-8 file, with or without BOM; raises UserError where it cannot be read."""
    refuse_special(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text") from error
