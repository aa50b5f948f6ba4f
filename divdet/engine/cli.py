"""Command lines: a dataclass of settings, read from YAML and overridden by ``--section.key value``."""

import dataclasses
import gc
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace

from divdet.engine.errors import UserError
from divdet.engine.files import refuse_special
from divdet.engine.help import HelpFormatter
from divdet.engine.peer_names import answer_elsewhere, answer_to, close_field, field_for, fields_of, translate
from divdet.engine.recipes import MAX_DIGITS, content_of, load_yaml, recipes, with_recipe_files
from divdet.engine.stopping import Stopped

Config = TypeVar("Config")

_MAX_MESSAGE = 2000  # characters
# How jsonargparse reports unknown keys of files, and unknown options.
_UNKNOWN = re.compile(r"Option '([\w.]+)' is not|Group '([\w.]+)' does not accept option '([\w.]+)'")
_UNKNOWN_OPTION = re.compile(r"(?<= )--([\w.-]+)")

# jsonargparse's terms, in a user's words.
_WORDING = {
    r'Parser key "([\w.]+)":': r"\1:",
    r"<class 'float'>": "number",
    r"<class 'int'>": "whole number",
    r"a <class 'bool'>|<class 'bool'>": "true or false",
    r"<class '([\w.]+)'>": r"\1",
    r"\ba typing\.Literal\[(.*?)\]": r"one of \1",
    r"\btyping\.Literal\[(.*?)\]": r"\1",
    r"\blist\[float\]": "list of numbers",
    r"\bdict\[str, float\]": "numbers by name ({cat: 2})",
    r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] .*? Given value type: [\w.]+ Given": (
        r"Expected one of \1. Got"
    ),
    r"\bNoneType\b": "null",
    r"(\w+): Unable to load config '(.*?)' - .*": (
        r"\1 is \2: it is a section: give it fields, such as {name: value}, or leave it out"
    ),
}
# Fields that a file without an option may be meant for, by its ending
_WEIGHTS = ("checkpoint", "others", "model.pretrained")
_MEANT = {".json": ("detections", "data.path"), **dict.fromkeys((".pt", ".pth", ".onnx", ".xml", ".pt2"), _WEIGHTS)}


class _Parser(ArgumentParser):
    fields: dict[str, Any]  # types by key
    given: set[str]  # options on the command line
    configs: list[str]  # the files behind --config

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        # jsonargparse would print the whole usage before a message of several lines.
        line = " ".join(str(message).split())
        for theirs, ours in _WORDING.items():
            line = re.sub(theirs, ours, line)
        if len(line) > _MAX_MESSAGE:  # it may quote a long value; the reason stands before or behind that
            line = f"{line[: _MAX_MESSAGE // 2]} … {line[-_MAX_MESSAGE // 2 :]}"
        if unknown := _UNKNOWN.search(line):
            key = ".".join(filter(None, unknown.groups()))
            line += self._meant_by_keys(key)
            for file in self.configs:
                content = content_of(file)
                if any(f"{own}.".startswith(f"{key}.") for own in flatten(content)):
                    recipe = "train.epochs" not in self.fields and "train" in content
                    line = f"{file}: {'a recipe of trainings, which this command does not take: ' * recipe}{line}"
                    break
        elif "unrecognized arguments: -" in line:
            line += self._meant_by_keys(*_UNKNOWN_OPTION.findall(line), dashes="--")
        elif word := re.search(r"unrecognized arguments: (\S+)", line):
            line += self._meant_by(word[1])
        raise UserError(f"{line} (see {self.prog} --help)")

    def _meant_by_keys(self, *keys: str, dashes: str = "") -> str:
        """The end of a message about unknown keys or options: what to use instead, or the fields that are alike."""
        told, close = "", []
        for key in keys:
            meant = field_for(key, self.fields)
            if not meant and (answer := answer_to(key, self.fields)):
                told += f": {answer}"
            elif not meant and (elsewhere := answer_elsewhere(key)):
                told += f"; for other commands: {elsewhere}"
            elif field := close_field(key, {**self.fields, "config": str}):
                close.append(dashes + field)
        return told + (f"; did you mean {', '.join(dict.fromkeys(close))}?" if close else "")

    def _meant_by(self, word: str) -> str:
        """The end of a message about a word without an option: a recipe's name, a checkpoint, results, or data."""
        if word in recipes():
            return f"; did you mean --config {word}?"
        meant = _MEANT.get(os.path.splitext(word)[1].lower(), ("data.path",)) if os.path.exists(word) else ()
        if meant == _WEIGHTS and "checkpoint" in self.given and "runtime" in self.fields:
            return "; several checkpoints are fused as --checkpoint A,B"
        field = next((field for field in meant if field in self.fields and field not in self.given), "")
        return field and f"; did you mean --{field.removesuffix('.path')} {word}?"

    def parse_path(self, cfg_path: Any, *arguments: Any, **options: Any) -> Namespace:
        refuse_special(str(cfg_path))
        here, path = os.getcwd(), Path(cfg_path).expanduser().absolute()
        try:
            if cfg_path == "-":  # standard input
                return super().parse_path(cfg_path, *arguments, **options)
            text = path.read_text(encoding="utf-8")  # jsonargparse takes the locale's
            if base := content_of(str(path)).get("config"):  # of which jsonargparse would keep no section named here
                raise UserError(f"a recipe cannot name another: give both, --config {base} --config {cfg_path}")
            os.chdir(path.parent)  # files that the recipe names lie beside it, as jsonargparse has it
            return self.parse_string(text, cfg_path, *arguments, **options)
        except UnicodeDecodeError as error:
            raise UserError(f"{cfg_path}: not a YAML file: not UTF-8 text") from error
        except UserError as error:
            content = content_of(str(path))
            split = {"names", "nc"} & content.keys() and {"train", "val"} & content.keys()
            if "data.path" in self.fields and split:
                raise UserError(f"{cfg_path}: this is YOLO's data.yaml, no recipe: give it as --data") from error
            raise UserError(f"{cfg_path}: {error}") from error
        finally:
            os.chdir(here)


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
        config_class: a dataclass; fields that are dataclasses are sections. Its docstring describes the command.
        argv: the arguments; default: the process's own.
        prog: the command's name in messages; default: the script's.
        positional: the field, a list of strings, that takes the positional arguments.
        defaults: maps the settings of a first reading to defaults ``{"section.key": value}`` of a second one: a
            checkpoint's own settings rank below the config file and the command line.

    Raises:
        UserError: for an unknown key, a wrong type, or an unreadable YAML file.
        SystemExit: with code 0 for ``--help`` and ``--print_config``.
    """
    parser = _parser(config_class, prog, positional)
    argv = with_recipe_files(sys.argv[1:] if argv is None else argv)
    parser.configs = [file for key, file in itertools.pairwise(argv) if key == "--config"]
    argv = _with_implied(_with_run(translate(argv, parser.fields, positional), parser.fields), parser.fields)
    parser.given = {word[2:].partition("=")[0] for word in argv if word.startswith("--")}
    for key, word in itertools.pairwise(["", *argv]):
        if digits := re.search(rf"\d{{{MAX_DIGITS + 1}}}", word):
            name = f"{key} " * key.startswith("--") + word[: digits.start() + 20]
            raise UserError(f"argument {name}…: a number of so many digits is too large")
    if positional and "--" not in argv:
        argv = _positionals_first(argv)
    # --print_config must wait for the defaults.
    read = parser.parse_args([word for word in argv if defaults is None or not word.startswith("--print_config")])
    if defaults:
        parser.set_defaults(defaults(_build(parser, read, config_class)))
        read = parser.parse_args(argv)
    return _build(parser, read, config_class)


def _with_run(argv: list[str], fields: Mapping[str, Any]) -> list[str]:
    """Adds the config.yaml of a training that ``--resume`` continues, where neither a recipe nor data are given."""
    given = dict(word[2:].split("=", 1) for word in argv if word.startswith("--") and "=" in word)
    resume, output = given.get("resume"), given.get("output")
    if not resume or "train.epochs" not in fields or any(word.startswith(("--config", "--data")) for word in argv):
        return argv
    folder = output if resume == "auto" else os.path.dirname(resume) or "."
    file = os.path.join(folder or "", "config.yaml")
    return ["--config", file, f"--output={output or folder}", *argv] if folder and os.path.isfile(file) else argv


def _with_implied(argv: list[str], fields: Mapping[str, Any]) -> list[str]:
    """Adds ``--train.min_steps=0`` where epochs are given: a recipe's steps must not raise what the user asks for."""
    given = {word.partition("=")[0] for word in argv}
    for word, following in itertools.pairwise([*argv, ""]):
        option, _, value = word.partition("=")
        if option == "--train":  # the whole section: --train '{epochs: 3}'
            try:
                section = load_yaml(value or following)
            except yaml.YAMLError:  # the parser says what is wrong
                continue
            given |= {f"--train.{name}" for name in section} if isinstance(section, dict) else set()
    asked = "--train.epochs" in given and "--train.min_steps" not in given and "train.min_steps" in fields
    return [*argv, "--train.min_steps=0"] if asked else argv


def _parser(config_class: type, prog: str | None, positional: str | None) -> _Parser:
    text = config_class.__doc__ or ""
    about = text.partition("Attributes:")[0].strip()
    usage = f"%(prog)s [options]{f' [{positional} ...]' if positional else ''}"
    parser = _Parser(prog=prog, usage=usage, description=about, allow_abbrev=False, formatter_class=HelpFormatter)
    parser.fields = fields_of(config_class)
    parser.add_argument("--config", action="config", help="a YAML file of these fields, or the name of a recipe")
    if positional:
        line = re.search(rf"^ +{positional}: (.*(\n {{12}}.*)*)", text, re.MULTILINE)
        parser.add_argument(positional, nargs="*", default=[], help=" ".join(line[1].split()) if line else None)
    parser.add_class_arguments(config_class, skip={positional} if positional else None)
    for group in parser._action_groups:
        if group.title == about.partition("\n\n")[0].rstrip("."):  # said at the top
            group.title = "settings"
    return parser


def _positionals_first(argv: list[str]) -> list[str]:
    """Turns ``a --flag b c`` into ``a c --flag b``: argparse takes positional arguments only in one block."""
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
    files = [file for file in read.pop("config", None) or [] if file]  # None where YAML text was given
    try:
        _check_values(read, config_class)
    except UserError as error:
        parser.error(str(error))
    config = config_class(**vars(parser.instantiate(read)))
    if files and getattr(config, "output", "") is None:
        config.output = str(Path("runs") / Path(files[-1].relative).stem)
    return config


def _check_values(read: Namespace, config_class: type, prefix: str = "") -> None:
    """Rejects what jsonargparse lets pass: null in a field that cannot be None, and a section without fields."""
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
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def run(command: Callable[[], None]) -> NoReturn:
    """Runs a command and exits: with 0, with 2 and one line on stderr for a UserError, or as a signal demands."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Log files show each line at once; their encoding may lack a category's letters.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun and the other processes wait for this one to end
            sys.stdout.flush()
            os._exit(2)  # skips Python's teardown, which takes seconds on busy cores; data workers notice
        sys.exit(2)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    except RuntimeError as error:
        if not re.search("operator torchvision::|PyTorch and torchvision were compiled", str(error)):
            raise
        what = f"torchvision {version('torchvision')} was built for another PyTorch than {version('torch')}"
        print(f"error: {what}: reinstall both at once, from the same index", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(141)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        gc.freeze()  # skips Python's last garbage collection over all imports: exits in 0.3 s instead of 1.4 s
    sys.exit(0)
