"""The pages that people read, and the blocks of code in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_NEEDS = re.compile(r"#.*\bneeds: (\S.*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    line: int  # of its first line in the page, from 1


@dataclass(frozen=True)
class ShellLine:
    """A line of a shell block, without its comment."""

    text: str
    needs: str | None  # what a test lacks to run it
    line: int

    def commands(self) -> Iterator[list[list[str]]]:
        """What is joined by ``&&``; each a pipeline of commands of words."""
        words = shlex.split(self.text.replace("&&", " \0&& ").replace(" | ", " \0| "))
        pipeline: list[list[str]] = [[]]
        for word in words:
            if word == "\0&&":
                yield pipeline
                pipeline = [[]]
            elif word == "\0|":
                pipeline.append([])
            else:
                pipeline[-1].append(word)
        yield pipeline


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(text):
        indent = len(fence["indent"])
        lines = [line[indent:] for line in fence["text"].splitlines()]
        found.append(Block(fence["language"], "\n".join(lines), text[: fence.start("text")].count("\n") + 1))
    return found


def code_spans(page: Path) -> Iterator[tuple[int, str]]:
    """The code in running text and tables, with its line."""
    text = _FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), page.read_text(encoding="utf-8"))
    for span in re.finditer(r"(?<!`)`([^`]+)`(?!`)", text):
        yield text[: span.start()].count("\n") + 1, " ".join(span[1].split())


def needs(line: str) -> str | None:
    """What a line's comment says that it needs."""
    found = _NEEDS.search(line)
    return found[1] if found else None


def shell_lines(block: Block) -> Iterator[ShellLine]:
    """The lines of a shell block; a line of comment alone that says what is needed holds for all below it."""
    below, held, start = None, "", block.line
    for number, line in enumerate(block.text.splitlines(), block.line):
        code = _without_comment(line)
        if not held:
            start = number
        if code.endswith("\\"):
            held += code[:-1] + " "
            continue
        if not (held + code).strip():
            below = needs(line) or below
            continue
        yield ShellLine((held + code).strip(), needs(line) or below, start)
        held = ""
    assert not held, f"line {start} is not continued"


def _without_comment(line: str) -> str:
    quoted = ""
    for place, letter in enumerate(line):
        if letter in "'\"" and not quoted:
            quoted = letter
        elif letter == quoted:
            quoted = ""
        elif letter == "#" and not quoted and (place == 0 or line[place - 1].isspace()):
            return line[:place].rstrip()
    return line.rstrip()
