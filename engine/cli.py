"""Command lines: a typed dataclass, read from YAML and overridden by ``--section.key value``."""

import dataclasses
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import ArgumentParser, Namespace

from engine.errors import UserError
from engine.stopping import Stopped

Config = TypeVar("Config")


class _Parser(ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        # jsonargparse prints the whole usage before a message of several lines: one line says more.
        raise UserError(" ".join(str(message).split()) + f" (see {self.prog} --help)")

    def parse_path(self, cfg_path: Any, *arguments: Any, **options: Any) -> Namespace:
        try:
            return super().parse_path(cfg_path, *arguments, **options)
        except UnicodeDecodeError as error:
            raise UserError(f"{cfg_path}: not a YAML file: it is no text in UTF-8") from error


def parse(
    config_class: type[Config],
    argv: Sequence[str] | None = None,
    *,
    positional: str | None = None,
    defaults: Callable[[Config], dict[str, Any]] | None = None,
) -> Config:
    """Reads ``--config FILE.yaml`` and ``--section.key value`` into a ``config_class``.

    Args:
        config_class: a dataclass whose fields may be dataclasses themselves (the sections); its docstring is
            the command's description.
        argv: the arguments, by default the process's own.
        positional: the field that takes the positional arguments (a list of strings).
        defaults: given a first reading, returns defaults as ``{"section.key": value}`` for a second one: how a
            checkpoint's own settings come below the config file and the command line.

    Raises:
        UserError: for an unknown key, a wrong type, or an unreadable YAML file.
        SystemExit: with code 0 for ``--help`` and ``--print_config``.
    """
    parser = _Parser(description=(config_class.__doc__ or "").strip(), allow_abbrev=False)
    parser.add_argument("--config", action="config", help="a YAML file of these fields")
    if positional:
        parser.add_argument(positional, nargs="*", help="see above")
    parser.add_class_arguments(config_class, skip={positional} if positional else None)
    argv = list(sys.argv[1:] if argv is None else argv)
    flags = {f"--{field.name}" for field in dataclasses.fields(config_class) if field.type is bool}
    argv = [
        f"{word}=true" if word in flags and argv[i + 1 : i + 2] not in (["true"], ["false"]) else word
        for i, word in enumerate(argv)
    ]
    # Printing waits for the defaults.
    read = parser.parse_args([word for word in argv if defaults is None or not word.startswith("--print_config")])
    if defaults:
        parser.set_defaults(defaults(_build(parser, read, config_class)))
        read = parser.parse_args(argv)
    return _build(parser, read, config_class)


def _build(parser: ArgumentParser, read: Namespace, config_class: type[Config]) -> Config:
    files = read.pop("config", None) or []
    for section in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(section.default_factory) and read.get(section.name) is None:
            raise UserError(f"{section.name} is empty: give it a field, or leave it out (see {parser.prog} --help)")
    config = config_class(**vars(parser.instantiate(read)))
    if files and getattr(config, "output", "") is None:
        config.output = str(Path("runs") / Path(files[-1].relative).stem)
    return config


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
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows each step when it happens
    try:
        command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    except BrokenPipeError:
        sys.exit(141)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
