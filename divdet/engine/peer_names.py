"""Option names of other trainers, and other ways to write values, understood on our command lines."""

import difflib
import os
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from divdet.engine.errors import UserError
from divdet.engine.peer_options import OPTIONS, Option

_BOOLS = ("true", "false")
_SHORT = re.compile(r"-([bj])=?(\d*)")  # torchvision's: -b 8, -b8
_LONG = {"b": "--batch", "j": "--workers"}


def fields_of(config_class: type, prefix: str = "") -> dict[str, Any]:
    """The types of a dataclass's fields by key, ``section.name`` for those of its sections."""
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(config_class).items():
        found |= fields_of(kind, f"{prefix}{name}.") if is_dataclass(kind) else {prefix + name: kind}
    return found


def translate(argv: Sequence[str], fields: Mapping[str, Any], positional: str | None = None) -> list[str]:
    """Rewrites arguments as ``--key=value`` with the names of ``fields``; what it does not know stays as it is.

    Understood are names without their section where one field alone has them (``--epochs``), other trainers' names
    (``divdet.engine.peer_options``), torchvision's ``-b`` and ``-j``, hyphens, ultralytics' ``key=value`` (where the
    command takes ``positional`` arguments only for names that it knows), options without a value for truth values,
    ``--resume`` for ``--resume auto``, and lists as ``1,2`` or ``1 2``.

    Raises:
        UserError: for options of other trainers that have no counterpart here, all at once, and beside them for those
            that nobody knows.
    """
    words, done, refused, unknown = deque(argv), [], [], []
    sections = {key.partition(".")[0] for key in fields if "." in key}
    while words:
        word = words.popleft()
        if short := _SHORT.fullmatch(word):
            word = _LONG[short[1]] + f"={short[2]}" * bool(short[2])
        if word == "--":
            done += [word, *words]
            break
        if _is_pair(word, fields, positional):
            word = f"--{word}"
        if not word.startswith("--"):
            done.append(word)
            continue
        name, equals, text = word[2:].partition("=")
        option, key = OPTIONS.get(_last(name), Option()), field_for(name, fields)
        of_section = name in sections and (text or " ".join([*words][:1])).startswith("{")
        if of_section or not (key or option.file in fields or answer_to(name, fields)):
            done.append(word)
            if not of_section and name not in (*sections, "config", "help", "print_config"):
                close = close_field(name, fields)
                unknown.append(f"--{name}: there is no such option" + (f"; did you mean --{close}?" if close else ""))
            if (of_section or name == "config") and not equals and words:
                done.append(words.popleft())
            continue
        own = key is not None and _last(name) == _last(key)
        switch = key is None or fields[key] is bool or ("true" in option.values and not own)
        choices = (*_BOOLS, *option.values, *option.anyway) if switch and positional else ()
        text = text if equals else _take_value(words, choices, key != positional and _takes_list(fields.get(key)))
        key = option.file if key is None and option.file in fields and os.path.isfile(text) else key
        try:
            ours = _value(name, text, option, key, own, answer_to(name, fields))
        except UserError as error:
            refused.append(str(error))
            continue
        if ours and key == positional:
            done.append(ours)
        elif ours:
            done.append(f"--{key}={_as_value(ours, fields[key])}")
        elif ours is not None:
            done.append(f"--{key}=true" if fields[key] is bool else f"--{key}")  # the parser says that a value lacks
    if refused:
        raise UserError("; ".join([*refused, *unknown]))
    return done


def _is_pair(word: str, fields: Mapping[str, Any], positional: str | None) -> bool:
    """Whether a word is ultralytics' ``key=value``, and no file of that name."""
    name, _, value = word.partition("=")
    if not re.fullmatch(r"[a-z][\w.]*", name) or "=" not in word:
        return False
    known = field_for(name, fields) or (_last(name) in OPTIONS and value)
    return not positional or bool(known and not os.path.exists(word))


def _take_value(words: deque[str], choices: Sequence[str], many: bool) -> str:
    """Takes an option's value from the words behind it: one of ``choices`` if there are any, numbers joined by commas.

    It is empty where the next word is no value.
    """
    if not words or words[0].startswith("--") or _SHORT.fullmatch(words[0]):
        return ""
    if choices and words[0].lower() not in choices:
        return ""
    values = [words.popleft()]
    while many and words and _is_number(words[0]):
        values.append(words.popleft())
    return ",".join(values)


def _value(name: str, text: str, option: Option, key: str | None, own: bool, answer: str | None) -> str | None:
    """The value of our field ``key`` for another trainer's; None where it asks for what is done anyway.

    ``own`` is whether the field has the same name; it then takes any value that the option does not answer.
    """
    lower = text.lower() or "true"
    any_value = own or not (option.values and option.answers)
    ours = None if key is None else option.values.get(lower, text if any_value else None)
    if ours is None and lower not in option.anyway:
        raise UserError(f"--{name} {text}: {answer}" if own else f"--{name}: there is no such option: {answer}")
    return ours.lower() if ours and ours.lower() in _BOOLS else ours


def answer_to(name: str, fields: Mapping[str, Any]) -> str | None:
    """What to use instead of another trainer's option, in a section or without it; None where that is not known."""
    section, option = name.replace("-", "_").rpartition(".")[0], OPTIONS.get(_last(name), Option())
    return option.answer({*fields, "config"}, section)


def answer_elsewhere(name: str) -> str | None:
    """What other commands have instead of another trainer's option."""
    return next(iter(OPTIONS.get(name.replace("-", "_"), Option()).answers), None)


def field_for(name: str, fields: Mapping[str, Any]) -> str | None:
    """The field that an option's name means, in a section or without it; None where none or several fit."""
    name = name.replace("-", "_")
    if name in fields:
        return name
    section, _, last = name.rpartition(".")
    meant = OPTIONS.get(last, Option()).fields
    same = [key for key in meant if key in fields and key.startswith(f"{section}." if section else "")]
    alike = [key for key in fields if key.rpartition(".")[2] == name]
    return same[0] if same else alike[0] if len(alike) == 1 else None


def close_field(name: str, fields: Mapping[str, Any]) -> str | None:
    """The field, or section, that a mistyped name may mean, for a suggestion; None where nothing is alike."""
    section, _, last = name.rpartition(".")
    if meant := field_for(name, fields) or field_for(last, fields):
        return meant
    sections = {key.rpartition(".")[0] for key in fields}
    if section not in sections:
        close = difflib.get_close_matches(section, sections, n=1, cutoff=0.75)
        return close[0] if close else None
    own = {key.rpartition(".")[2]: key for key in fields if not section or key.startswith(f"{section}.")}
    own |= {} if section else {title: title for title in sections}
    close = difflib.get_close_matches(last, own, n=1, cutoff=0.7)
    return own[close[0]] if close else None


def _last(name: str) -> str:
    return name.replace("-", "_").rpartition(".")[2]


def _as_value(text: str, kind: Any) -> str:
    """``1,2`` as ``[1,2]`` for a list; where other types are possible too, only numbers are a list."""
    listed = get_origin(kind) is list or (_takes_list(kind) and all(map(_is_number, text.split(","))))
    return f"[{text}]" if listed and not text.startswith("[") else text


def _takes_list(kind: Any) -> bool:
    """Whether a type is a list, or a union with one."""
    return any(get_origin(part) is list for part in (kind, *get_args(kind)))


def _is_number(word: str) -> bool:
    return re.fullmatch(r"\s*-?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*", word) is not None
