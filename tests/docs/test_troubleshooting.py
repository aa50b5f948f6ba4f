import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)


def strings_of(path: Path) -> list[str]:
    """The texts in a source file, with … for what is put into them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
            texts.append("".join(parts))
    return texts


@pytest.fixture(scope="module")
def source() -> list[str]:
    files = [path for package in ("divdet", "detection", "classification") for path in (ROOT / package).rglob("*.py")]
    return [text for path in files for text in strings_of(path)]


def test_page_quotes_messages_of_every_area() -> None:
    assert len(MESSAGES) >= 40
    assert len(set(MESSAGES)) == len(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_message_is_in_the_source(message: str, source: list[str]) -> None:
    fixed = [part for part in message.split("…") if part.strip(" :,;.'")]
    assert sum(map(len, fixed)) >= 12, "too short to say what it quotes"
    pattern = re.compile(".*".join(map(re.escape, fixed)))
    assert any(pattern.search(text) for text in source)
