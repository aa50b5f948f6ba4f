"""Recipes: where they are, and how their YAML is read."""

import difflib
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from divdet.engine.errors import UserError

RECIPES = Path(__file__).parents[1] / "configs"  # cls/NAME.yaml, det/NAME.yaml

_read_yaml = get_loader("yaml")
_MAX_LENGTH = 2**16  # characters of a file
MAX_DIGITS = 300  # of a whole number, which may become a float
_MAX_DEPTH = 100  # deeper nesting ends in Python's recursion limit
_MAX_ITEMS = 500  # of a list: jsonargparse takes 4 s for 2,000 and 90 s for 10,000
_NUMBER = re.compile(r"[-+]?\d[\da-fA-FxX_:]*")  # as YAML writes whole numbers


def load_yaml(text: str) -> Any:
    """Reads YAML as recipes are read; raises yaml.YAMLError, also for what is too large, too deep or has aliases."""
    if len(text) > _MAX_LENGTH:
        raise yaml.YAMLError("it is longer than 64 KiB, which no recipe is")
    lengths = [0]  # of the open lists and sections
    for event in yaml.parse(text, yaml.SafeLoader):
        fault, value = "", getattr(event, "value", "")
        if getattr(event, "anchor", None):
            fault = f"{event.anchor} is an anchor or alias: write out what it stands for"
        elif len(value) > MAX_DIGITS and _NUMBER.fullmatch(value):
            fault = f"a number of {len(value)} digits is too large"
        elif "\0" in value:
            fault = "a null character, which no path or name has"
        lengths[-1] += 1
        if isinstance(event, yaml.CollectionStartEvent):
            lengths.append(0 if isinstance(event, yaml.SequenceStartEvent) else -math.inf)
        elif isinstance(event, yaml.CollectionEndEvent):
            lengths.pop()
        if len(lengths) > _MAX_DEPTH:
            fault = "it is nested too deeply"
        if lengths[-1] > _MAX_ITEMS:
            fault = f"a list of more than {_MAX_ITEMS} values is too long"
        if fault:
            raise yaml.YAMLError(f"line {event.start_mark.line + 1}: {fault}")
    return _read_yaml(text)


set_loader("yaml", load_yaml, (yaml.YAMLError,))


def recipes() -> dict[str, str]:
    """The recipes' files by name."""
    return {path.stem: str(path) for path in sorted(RECIPES.glob("*/*.yaml"))}


def content_of(path: str) -> dict[str, Any]:
    """What a YAML file holds by key; nothing where it is another file."""
    try:
        content = load_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def with_recipe_files(argv: Sequence[str]) -> list[str]:
    """Replaces the name of a recipe behind ``--config``, such as ``bccd``, by its file."""
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    for place, name in enumerate(words[1:], 1):
        no_file = re.search(r"^-?$|[{\n]|: ", name)  # nothing, standard input, or YAML itself
        path = os.path.expanduser(name)
        if words[place - 1] == "--config" and not no_file and (os.path.isdir(path) or not os.path.exists(path)):
            known = recipes()
            if name not in known:
                if os.path.isdir(path):
                    raise UserError(f"--config {name}: is a folder: name a recipe's file in it")
                close = difflib.get_close_matches(Path(name).stem, known, n=1)
                meant = f"did you mean {close[0]}?" if close else f"the recipes are {', '.join(known)}"
                raise UserError(f"--config {name}: no such file, and no recipe of that name: {meant}")
            words[place] = known[name]
    return words
