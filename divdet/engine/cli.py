"""Command lines: a typed dataclass, read from YAML and overridden by ``--section.key value``."""

import dataclasses
import difflib
import gc
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader

from divdet.engine.errors import UserError
from divdet.engine.files import refuse_special
from divdet.engine.stopping import Stopped

Config = TypeVar("Config")

RECIPES = Path(__file__).parents[1] / "configs"  # cls/NAME.yaml, det/NAME.yaml

_read_yaml = get_loader("yaml")
_MOST_DIGITS = 300  # of a whole number, which may become a float
_DEEPEST = 100  # brackets inside brackets; reading takes the square of their number
_MOST_ITEMS = 500  # of a list; checking takes the square of their number
_LONGEST = 2000  # characters of a message


def _load_yaml(text: str) -> Any:
    depths = itertools.accumulate(1 if bracket in "[{" else -1 for bracket in re.findall(r"[][{}]", text))
    if max(depths, default=0) > _DEEPEST:
        raise yaml.YAMLError("it is nested too deeply")
    # Aliases share what they name. jsonargparse walks every way through it, and a few lines can hold endlessly many.
    try:
        document = yaml.compose(text)
        if document is not None and _expanded(document, {}) > len(text) + 10_000:
            raise yaml.YAMLError("its aliases (*name) stand for too many values: write out what they name")
        return _read_yaml(text)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def _expanded(node: yaml.Node, counted: dict[yaml.Node, int]) -> int:
    """The number of values in a document, those behind an alias counted at each."""
    if node not in counted:
        if node.tag == "tag:yaml.org,2002:int" and len(node.value) > _MOST_DIGITS:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: a number of {len(node.value)} digits is too large")
        if isinstance(node, yaml.ScalarNode) and "\0" in node.value:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: a null character, which no path or name has")
        if isinstance(node, yaml.SequenceNode) and len(node.value) > _MOST_ITEMS:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: a list of {len(node.value)} values is too long")
        counted[node] = 0  # until it is counted: then it was met inside itself
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        pairs = [child if isinstance(child, tuple) else (child,) for child in children]
        counted[node] = 1 + sum(_expanded(part, counted) for pair in pairs for part in pair)
    elif not counted[node]:
        raise yaml.YAMLError("an alias (*name) stands inside what it names: write it out")
    return counted[node]


set_loader("yaml", _load_yaml, (yaml.YAMLError,))


# How jsonargparse names a key that it does not know
_UNKNOWN = re.compile(
    r"unrecognized arguments: --([\w.]+)|Option '([\w.]+)' is not|Group '([\w.]+)' does not accept option '([\w.]+)'"
)

# jsonargparse's terms, and a user's
_WORDING = {
    r'Parser key "([\w.]+)":': r"\1:",
    r"<class 'float'>": "number",
    r"<class 'int'>": "whole number",
    r"<class '([\w.]+)'>": r"\1",
    r"\ba typing\.Literal\[(.*?)\]": r"one of \1",
    r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] .*? Given value type: \w+ Given": (
        r"Expected one of \1. Got"
    ),
    r"\bNoneType\b": "null",
}

# What other trainers call a field of ours
_PEERS_NAMES = {
    "learning_rate": "lr",
    "lr0": "lr",
    "batch": "batch_size",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "num_workers": "workers",
    "wd": "weight_decay",
    "amp": "precision",
}


class _Parser(ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        # jsonargparse prints the whole usage before a message of several lines: one line says more.
        line = " ".join(str(message).split())
        for theirs, ours in _WORDING.items():
            line = re.sub(theirs, ours, line)
        if len(line) > _LONGEST:  # what was given may be of any length; what is wrong with it stands before or behind
            line = f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"
        if unknown := _UNKNOWN.search(line):
            key = ".".join(filter(None, unknown.groups()))
            known = [action.dest for action in self._actions]
            section, _, name = key.rpartition(".")
            meant = [other for other in known if other == f"{section}.{_PEERS_NAMES.get(name)}".lstrip(".")]
            close = meant or difflib.get_close_matches(key, known, n=1)
            line += f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"{line} (see {self.prog} --help)")

    def parse_path(self, cfg_path: Any, *arguments: Any, **options: Any) -> Namespace:
        refuse_special(str(cfg_path))
        try:
            return super().parse_path(cfg_path, *arguments, **options)
        except UnicodeDecodeError as error:
            raise UserError(f"{cfg_path}: not a YAML file: it is no text in UTF-8") from error
        except UserError as error:
            raise UserError(f"{cfg_path}: {error}") from error


def parse(
    config_class: type[Config],
    argv: Sequence[str] | None = None,
    *,
    prog: str | None = None,
    positional: str | None = None,
    defaults: Callable[[Config], dict[str, Any]] | None = None,
) -> Config:
    """Reads ``--config FILE.yaml`` and ``--section.key value`` into a ``config_class``.

    Args:
        config_class: a dataclass whose fields may be dataclasses themselves (the sections); its docstring is
            the command's description.
        argv: the arguments, by default the process's own.
        prog: the command's name in messages, by default the script's.
        positional: the field that takes the positional arguments (a list of strings).
        defaults: given a first reading, returns defaults as ``{"section.key": value}`` for a second one: how a
            checkpoint's own settings come below the config file and the command line.

    Raises:
        UserError: for an unknown key, a wrong type, or an unreadable YAML file.
        SystemExit: with code 0 for ``--help`` and ``--print_config``.
    """
    parser = _parser(config_class, prog, positional)
    argv = _with_recipe_files(sys.argv[1:] if argv is None else argv)
    flags = {f"--{field.name}" for field in dataclasses.fields(config_class) if field.type is bool}
    argv = [
        f"{word}=true" if word in flags and argv[i + 1 : i + 2] not in (["true"], ["false"]) else word
        for i, word in enumerate(argv)
    ]
    for key, word in itertools.pairwise(["", *argv]):
        if digits := re.search(rf"\d{{{_MOST_DIGITS + 1}}}", word):
            name = f"{key} " * key.startswith("--") + word[: digits.start() + 20]
            raise UserError(f"argument {name}…: a number of so many digits is too large")
    if positional and "--" not in argv:
        argv = _positionals_first(argv)
    # Printing waits for the defaults.
    read = parser.parse_args([word for word in argv if defaults is None or not word.startswith("--print_config")])
    if defaults:
        parser.set_defaults(defaults(_build(parser, read, config_class)))
        read = parser.parse_args(argv)
    return _build(parser, read, config_class)


def _with_recipe_files(argv: Sequence[str]) -> list[str]:
    """The arguments, with the file of a recipe that ``--config`` names, such as ``bccd``."""
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    for place, name in enumerate(words[1:], 1):
        if words[place - 1] == "--config" and re.fullmatch(r"\w+", name) and not os.path.isfile(name):
            words[place] = next(map(str, RECIPES.glob(f"*/{name}.yaml")), name)
    return words


def _parser(config_class: type, prog: str | None, positional: str | None) -> _Parser:
    parser = _Parser(prog=prog, description=(config_class.__doc__ or "").strip(), allow_abbrev=False)
    parser.add_argument("--config", action="config", help="a YAML file of these fields, or the name of a recipe")
    if positional:
        parser.add_argument(positional, nargs="*", help="see above")
    parser.add_class_arguments(config_class, skip={positional} if positional else None)
    return parser


def _positionals_first(argv: list[str]) -> list[str]:
    """``a --flag b c`` as ``a c --flag b``: argparse takes the positional arguments only where they stand together."""
    words = iter(argv)
    positionals, options = [], []
    for word in words:
        if not word.startswith("-"):
            positionals.append(word)
            continue
        options.append(word)
        if "=" not in word and word not in ("-h", "--help", "--print_config"):
            options += itertools.islice(words, 1)  # its value
    return positionals + options


def _build(parser: ArgumentParser, read: Namespace, config_class: type[Config]) -> Config:
    files = [file for file in read.pop("config", None) or [] if file]  # none where YAML itself was given
    try:
        _check_values(read, config_class)
    except UserError as error:
        parser.error(str(error))
    config = config_class(**vars(parser.instantiate(read)))
    if files and getattr(config, "output", "") is None:
        config.output = str(Path("runs") / Path(files[-1].relative).stem)
    return config


def _check_values(read: Namespace, config_class: type, prefix: str = "") -> None:
    """Raises UserError, naming the key, for null in a field that cannot be None and for a section without fields.

    jsonargparse lets both pass.
    """
    for name, kind in get_type_hints(config_class).items():
        key, value = prefix + name, read.get(name)
        if dataclasses.is_dataclass(kind) and isinstance(value, Namespace):
            _check_values(value, kind, f"{key}.")
        elif dataclasses.is_dataclass(kind):
            state = "empty" if value is None else repr(value)
            raise UserError(f"{key} is {state}: it is a section: give it fields, or leave it out")
        elif value is None and type(None) not in get_args(kind):
            raise UserError(f"{key} is null: give it a value, or leave it out")
        elif isinstance(value, str) and "\0" in value:
            raise UserError(f"{key} holds a null character, which no path or name has")


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain dicts, lists and scalars."""
    return dataclasses.asdict(config)


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML that ``--config`` reads back."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def flatten(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def run(command: Callable[[], None]) -> NoReturn:
    """Runs a command line and exits: 0, 2 with one line on stderr for what the user can mend, or as a signal asks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A log file shows each step when it happens, and may have an encoding without a category's letters.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun and the other processes wait for the end of this one
            sys.stdout.flush()
            os._exit(2)  # without Python's teardown, which takes seconds on busy cores; data workers notice
        sys.exit(2)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    except BrokenPipeError:
        sys.exit(141)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        gc.freeze()  # at its end Python would look for garbage in all that was imported: 0.3 s instead of 1.4 s
    sys.exit(0)
