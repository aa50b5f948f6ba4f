"""Commands as the pages have them: which command of divdet they call, and whether its parser takes them."""

import re
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from divdet.commands import COMMANDS, Command
from divdet.engine.cli import parse
from tests.docs.pages import ROOT

# What prepares a shell. A test has its environment already.
PREPARES = ("python3", ".", "source", "export", "cd", "pip", "pytest", "ruff")
# They run until they are stopped: tests of their own run them.
SERVERS = ("demo", "serve")
_OPTIONAL = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
_EXTRAS = set(re.findall(r"^(\w+) = \[", _OPTIONAL.partition("\n[tool")[0], re.MULTILINE))


def called(words: Sequence[str]) -> tuple[str, list[str]] | None:
    """The name in ``COMMANDS`` and the arguments, of ``divdet NAME …``, ``python tools/name.py …``, torchrun's."""
    if len(words) > 1 and words[0] == "divdet" and not words[1].startswith("-") and words[1] != "NAME":
        return words[1], list(words[2:])
    scripts = (place for place, word in enumerate(words) if re.fullmatch(r"(\S*tools/)?\w+\.py", word))
    place = next(scripts, None)
    if place is None or words[place] == "tools/NAME.py" or (place > 0 and words[0] not in ("python", "torchrun")):
        return None
    name = Path(words[place]).stem.replace("_", "-")
    return (name, list(words[place + 1 :])) if name in COMMANDS or "tools/" in words[place] else None


def check_parses(name: str, arguments: Sequence[str]) -> Any:
    """Reads a command's arguments, as far as that needs no files; ``…`` is what a page leaves out."""
    assert name in COMMANDS, f"divdet {name}: no such command"
    command: Command = COMMANDS[name]
    given = list(arguments)
    while "…" in given:  # alone, or a flag's value
        place = given.index("…")
        del given[place - (place > 0 and given[place - 1].startswith("--")) : place + 1]
    given = [word for word in given if word not in ("--help", "--print_config")]
    return parse(resolve_name(command.settings), given, prog=f"divdet {name}", positional=command.positional)


def check_words(words: Sequence[str]) -> None:
    """Fails for what a page has wrong in a command that is not run: flags, recipes, extras, files of the repository."""
    if found := called(words):
        check_parses(*found)
        return
    for extra in re.findall(r"\[([\w,]+)\]", " ".join(words)) if words[0] == "pip" else ():
        assert not set(extra.split(",")) - _EXTRAS, f"{' '.join(words)}: no such extra"
    for word in words:
        if re.fullmatch(r"(tools|benchmarks|examples|tests|docs)/[\w/.]+", word):
            assert (ROOT / word).exists(), f"{word}: no such file"
    if words[0] == "python" and words[1].startswith("benchmarks/"):
        source = (ROOT / words[1]).read_text(encoding="utf-8")
        for option in (word.partition("=")[0] for word in words if word.startswith("--")):
            assert f'"{option}"' in source, f"{' '.join(words)}: no such option"
