"""What code writes into the pages: fields, commands, recipes, in place of ``<!-- site: … -->``."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from sphinx.application import Sphinx

from divdet.commands import COMMANDS
from divdet.engine.recipes import RECIPES
from docs.site.fields import RECIPE_COMMANDS, SECTIONS, Field, anchor, fields, recipes, set_by_recipes

ROOT = Path(__file__).parents[2]
_MARK = re.compile(r"^<!-- site: (\w+) ?(.*?) -->$", re.MULTILINE)


def _written(value: Any) -> str:
    """A value as a recipe has it."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _entry(field: Field, prefix: str, name: str, *more: str) -> str:
    """A field as a definition list of one term."""
    facts = f"{field.kind}, default `{_written(field.default)}`"
    text = field.text[:1].upper() + field.text[1:]
    lines = [f"({anchor(field.key, prefix)})=", f"`{name}`", f": {facts}", "", f"  {text}"]
    return "\n".join([*lines, *(f"\n  {one}" for one in more)])


def _fields(task: str) -> Iterator[str]:
    """The fields of a recipe, section by section."""
    prefix = "" if task == "det" else task
    for section in (*SECTIONS, ""):
        own = [one for one in fields(RECIPE_COMMANDS[task]) if one.section == section]
        if own:
            yield f"({anchor(f'fields.{section}', prefix)})=\n### `{section}`" if section else "### The run"
        for field in own:
            values = [
                f"`{_written(value)}` in "
                + ", ".join(f"[{one}](#recipe-{task}-{one.replace('_', '-')})" for one in names)
                for value, names in set_by_recipes(task, field.key)
            ]
            yield _entry(field, prefix, field.key, *(["Recipes: " + "; ".join(values)] if values else []))


def _commands(_: str) -> Iterator[str]:
    """Every command with the fields that are its own."""
    yield "\n".join(f"- [`divdet {name}`](#command-{name}) {command.help}" for name, command in COMMANDS.items())
    for name, command in COMMANDS.items():
        settings = resolve_name(command.settings)
        yield f"(command-{name})=\n## `divdet {name}`"
        yield settings.__doc__.partition("\n\n")[0]
        words = f" {command.positional.upper()} …" if command.positional else ""
        yield f"```text\ndivdet {name}{words} [--config FILE] [--FIELD VALUE …]\n```"
        if name in RECIPE_COMMANDS.values():
            heading = "detection" if name == "train-det" else "classification"
            yield f"Its fields are those of [a recipe](configuration.md#{heading})."
            continue
        own = fields(name)
        for field in own:
            if not field.section:
                shown = field.key.upper() if field.key == command.positional else f"--{field.key}"
                yield _entry(field, name, shown)
        shared = {section: sum(one.section == section for one in own) for section in SECTIONS}
        task = "cls" if "Classification" in settings.__name__ else ""
        links = [f"[`{one}`](#{anchor(f'fields.{one}', task)})" for one, count in shared.items() if count]
        if links:
            yield f"And the sections {', '.join(links)} of a recipe."


def _recipes(task: str) -> Iterator[str]:
    """The recipes' files."""
    for name in recipes(task):
        text = (RECIPES / task / f"{name}.yaml").read_text(encoding="utf-8").rstrip()
        yield f"(recipe-{task}-{name.replace('_', '-')})=\n### `{name}`\n\n```yaml\n{text}\n```"


def _notebook(name: str) -> Iterator[str]:
    """A notebook of examples/: its text and code, and the text that the code printed."""
    cells = json.loads((ROOT / f"examples/{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        text = "".join(cell["source"]).rstrip()
        if cell["cell_type"] == "markdown":
            text = re.sub(r"^#", "##", text, flags=re.MULTILINE)
            text = re.sub(r"\]\((\w+\.ipynb)\)", r"](../examples/\1)", text)  # links, as seen from docs/
            yield text.replace("](../docs/)", "](index.md)").replace("](../docs/", "](")
            continue
        language = "text" if re.search("^!", text, re.MULTILINE) else "python"  # !command is of notebooks alone
        yield f"```{language}\n{text}\n```"
        printed = "".join("".join(output.get("text", [])) for output in cell["outputs"]).rstrip()
        if printed:
            yield f"```text\n{printed}\n```"


_NAVIGATION = {
    "Start": "index first_ten_minutes own_data notebooks",
    "Guide": "how_it_works data training distributed logging heads prediction fusion evaluation",
    "Deploy": "planning demo serving export",
    "Reference": "configuration recipes commands api troubleshooting",
    "Evidence": "evidence performance reliability reproduce decisions",
    "Project": "architecture contributing changelog",
}


def _navigation() -> Iterator[str]:
    """The tables of contents behind the home page, which GitHub need not see."""
    for title, names in _NAVIGATION.items():
        entries = "\n".join("self" if name == "index" else name for name in names.split())
        yield f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n{entries}\n```"


_WRITERS = {"fields": _fields, "commands": _commands, "recipes": _recipes, "notebook": _notebook}


def _write(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = _MARK.sub(lambda mark: "\n\n".join(_WRITERS[mark[1]](mark[2])), source[0])
    if name == "index":
        source[0] += "\n" + "\n\n".join(_navigation())
    # The README and CONTRIBUTING.md lie outside; their places on the site are pages of it.
    source[0] = re.sub(r"\]\(\.\./README\.md(#[^)]*)?\)", "](index.md)", source[0])
    source[0] = source[0].replace("](../CONTRIBUTING.md", "](contributing.md")


def _generated(app: Sphinx, *_: object) -> list[str]:
    """Pages that are read anew each time, since code writes them."""
    return [
        name for name in ("configuration", "commands", "recipes", "notebooks", "index") if name in app.env.found_docs
    ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Writes into each page before it is read."""
    app.connect("env-get-outdated", _generated)
    app.connect("source-read", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
