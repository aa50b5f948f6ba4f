"""Every command and every Python block of the pages runs, or says what it needs that a test has not.

They run in the order of the page, in this process, in a folder of tiny stand-ins (``stand_ins.py``). Training is cut to
one epoch, timing to a moment on a small network, the quickstart to a few images, and ``…``, what a page leaves out,
stands for ``--data my_set``. The quickstart and an export to a format run once; later pages get a copy.

What is marked ``# needs: …`` must still parse: its command, flags, recipe, extras and files, or its imports and names
of divdet. pip, pytest and ruff are checked alike, and never run. ``demo`` and ``serve``, which do not end, have tests
of their own.
"""

import ast
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import divdet
from divdet.commands import COMMANDS, Command
from tests.docs import stand_ins
from tests.docs.commands import PREPARES, SERVERS, called, check_words
from tests.docs.pages import PAGES, Block, ShellLine, blocks, code_spans, needs, shell_lines

_WRITTEN: dict[str, Path] = {}  # by the quickstart and by exports
_DATA = {"json", "yaml", "toml", "text", "", "{toctree}", "{include}", "{eval-rst}"}  # languages that nothing runs


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    stand_ins.write_template(folder)
    return folder


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands end soon, whoever calls them."""
    read = Command.parse

    def parse_short(self: Command, argv: list[str], prog: str | None = None) -> Any:
        name = next(name for name, command in COMMANDS.items() if command is self)
        config = read(self, [*argv, *stand_ins.SHORT.get(name, [])], prog)
        if name.startswith("train-") and not config.resume:  # of alternatives on a page, each begins anew
            shutil.rmtree(config.output or "runs", ignore_errors=True)
        return config

    def generate_few(folder: Path, train: int, val: int, seed: int) -> None:
        generate(folder, *stand_ins.QUICKSTART_IMAGES, seed)

    from detection.data.synthetic import generate

    monkeypatch.setattr(Command, "parse", parse_short)
    monkeypatch.setattr("divdet.commands.quickstart.generate", generate_few)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.usefixtures("short")
def test_what_a_page_runs_runs(
    page: Path, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    parts = [block for block in blocks(page) if block.language not in _DATA]
    monkeypatch.chdir(tmp_path)
    stand_ins.write_stand_ins("\n".join(block.text for block in parts), template, tmp_path)
    names = stand_ins.names(template)
    for block in parts:
        assert block.language in ("sh", "python"), (
            f"{page.name}:{block.line}: call {block.language} sh, python, or text"
        )
        for line, step in _shell(block, monkeypatch) if block.language == "sh" else _python(block, names):
            try:
                step()
            except BaseException as error:
                error.add_note(f"in {page.name}, line {line}")
                raise
            capsys.readouterr()


def _shell(block: Block, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, Any]]:
    for line in shell_lines(block):
        yield line.line, lambda line=line: _run_line(line, monkeypatch)


def _run_line(line: ShellLine, monkeypatch: pytest.MonkeyPatch) -> None:
    for pipeline in line.commands():
        for words in pipeline:
            check_words(words)
        *before, words = pipeline
        found = called(words)
        if line.needs or words[0] in PREPARES or (found and found[0] in SERVERS):
            continue
        assert found, f"{line.text}: it is neither run nor marked '# needs: …'"
        assert words[0] != "torchrun", f"{line.text}: mark it '# needs: …'"
        if before:
            fed = subprocess.run(" | ".join(map(shlex.join, before)), shell=True, capture_output=True, check=True)
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(fed.stdout)))
        _call(*found)


def _call(name: str, arguments: list[str]) -> None:
    if "…" in arguments:
        place = arguments.index("…")
        arguments[place : place + 1] = ["--data", "my_set"]
    config = COMMANDS[name].parse(arguments, f"divdet {name}")
    if name == "quickstart":
        _once(Path(config.output), lambda: COMMANDS[name].call(config))
    elif name == "export" and config.precision != "int8":
        ending = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}.get(config.format)
        place = Path(config.output) if config.output else Path(config.checkpoint).with_suffix(ending)
        _once(place, lambda: COMMANDS[name].call(config))
    else:
        COMMANDS[name].call(config)


def _once(place: Path, run: Callable[[], Any]) -> None:
    """Runs what takes long for one page; the next ones that write the like get a copy."""
    key = place.suffix or place.name
    if key not in _WRITTEN:
        run()
        _WRITTEN[key] = place.absolute()
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.suffix:
        shutil.copy(_WRITTEN[key], place)
        if _WRITTEN[key].with_suffix(".bin").exists():
            shutil.copy(_WRITTEN[key].with_suffix(".bin"), place.with_suffix(".bin"))
    else:
        shutil.copytree(_WRITTEN[key], place, dirs_exist_ok=True)


def _python(block: Block, names: dict[str, Any]) -> Iterator[tuple[int, Any]]:
    lines = block.text.splitlines()
    marked = needs(lines[0]) if lines[0].startswith("#") else None
    for statement in ast.parse(block.text).body:
        own = lines[statement.lineno - 1 : statement.end_lineno]
        _check_names(statement, may_lack=bool(marked or any(map(needs, own))))
        if not marked and not any(map(needs, own)):
            code = compile(ast.Module([statement], []), "page", "exec")
            yield block.line + statement.lineno - 1, lambda code=code: exec(code, names)


def _check_names(statement: ast.stmt, may_lack: bool) -> None:
    """Fails for imports that are wrong, and names that divdet has not."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "divdet":
            assert hasattr(divdet, node.attr), f"divdet.{node.attr}: no such name"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in modules:
                if may_lack and find_spec(name.partition(".")[0]) is None:
                    continue
                module = import_module(name)
                for alias in node.names if isinstance(node, ast.ImportFrom) else ():
                    assert hasattr(module, alias.name), f"{name}.{alias.name}: no such name"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_in_running_text_parse(page: Path) -> None:
    for line, span in code_spans(page):
        words = re.sub(r"\[(--[^]]*)\]", r"\1", span).split()  # [--optional]
        found = called(words)
        if found and any(word.startswith("--") for word in found[1]):
            words = shlex.split(" ".join(words))
            try:
                check_words(words)
            except BaseException as error:
                error.add_note(f"in {page.name}, line {line}: {span}")
                raise
