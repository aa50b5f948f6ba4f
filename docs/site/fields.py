"""Every field of the recipes and of the commands, as ``--help`` knows them. Nothing here imports Sphinx or torch."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser

from divdet.commands import COMMANDS
from divdet.engine import cli
from divdet.engine.peer_names import fields_of
from divdet.engine.recipes import RECIPES

RECIPE_COMMANDS = {"det": "train-det", "cls": "train-cls"}
SECTIONS = ("model", "data", "train", "postprocess")


@dataclass(frozen=True)
class Field:
    """A field of a command's settings."""

    key: str  # as on the command line: train.lr
    kind: str  # in words
    default: Any
    text: str  # its docstring, in Markdown

    @property
    def section(self) -> str:
        """Such as train; empty for the command's own fields."""
        return self.key.rpartition(".")[0]


def kind_of(hint: Any) -> str:
    """A type in a user's words, in Markdown."""
    if get_origin(hint) is Literal:
        return " | ".join(f"`{choice}`" for choice in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return " | ".join(kind_of(one) for one in get_args(hint))
    if get_origin(hint) is list:
        return f"list of {kind_of(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return f"{kind_of(get_args(hint)[1])} by name"
    return {str: "text", int: "whole number", float: "number", bool: "true | false", NoneType: "null"}[hint]


def _markdown(text: str) -> str:
    """A docstring's words, which are reStructuredText, in Markdown."""
    parts = re.split(r"(``.+?``)", " ".join(text.split()))
    plain = "".join(one if one.startswith("``") else re.sub(r"([<*$\[\]])", r"\\\1", one) for one in parts)
    return re.sub(r"docs/(\w+)\.md", r"[\1](\1.md)", plain)


@cache
def fields(command: str) -> tuple[Field, ...]:
    """The fields of a command, its own ones first, then section by section."""
    settings = resolve_name(COMMANDS[command].settings)
    kinds = fields_of(settings)
    parser = ArgumentParser()
    parser.add_class_arguments(settings)
    actions = [action for action in parser._actions if action.dest in kinds]
    found = [Field(one.dest, kind_of(kinds[one.dest]), one.default, _markdown(one.help or "")) for one in actions]
    return tuple(sorted(found, key=lambda one: bool(one.section)))


@cache
def recipes(task: str) -> dict[str, dict[str, Any]]:
    """What each recipe of a task sets: ``{"bccd": {"train.lr": 0.02}}``."""
    files = sorted((RECIPES / task).glob("*.yaml"))
    return {one.stem: cli.flatten(yaml.safe_load(one.read_text(encoding="utf-8"))) for one in files}


def set_by_recipes(task: str, key: str) -> Iterator[tuple[Any, list[str]]]:
    """The values that recipes give a field, each with the recipes' names."""
    values: dict[str, tuple[Any, list[str]]] = {}
    for name, recipe in recipes(task).items():
        if key in recipe:
            values.setdefault(repr(recipe[key]), (recipe[key], []))[1].append(name)
    yield from values.values()


def anchor(key: str, prefix: str = "") -> str:
    """Where a field is explained: ``train-lr`` for a detector's, ``cls-train-lr`` for a classifier's or a command's."""
    return (f"{prefix}-" if prefix else "") + re.sub(r"[._]", "-", key)
