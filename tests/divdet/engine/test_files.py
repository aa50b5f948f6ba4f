"""Files that cannot be read or written, and how a refusal quotes them."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from divdet.engine import checkpoint
from divdet.engine.cli import parse
from divdet.engine.errors import UserError
from divdet.engine.files import write_json
from divdet.engine.images import read_bytes


@dataclass
class Config:
    """A command."""

    seed: int = 0


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    write_json([1], file)
    with pytest.raises(ValueError, match="JSON"):
        write_json([math.nan], file)
    assert file.read_text() == "[\n  1\n]"
    assert os.listdir(tmp_path) == ["numbers.json"]


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\u2028b", "\x1b[2J", "\ud800", "\u202e"])
def test_a_refusal_is_one_printable_line_whatever_it_quotes(text: str) -> None:
    message = str(UserError(f"{text}.png: é 名前, no image"))
    assert message.isprintable()
    assert message == f"{text.encode('unicode_escape').decode()}.png: é 名前, no image"


def test_a_file_system_that_became_read_only_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("os.replace", read_only)
    monkeypatch.setattr("pathlib.Path.unlink", read_only)
    with pytest.raises(UserError, match=r"last\.pt: cannot be written \(Read-only file system\)"):
        checkpoint.save(checkpoint.Checkpoint("detection", {}), tmp_path / "last.pt")


@pytest.mark.parametrize("name", ["pipe", "zeros"])
def test_a_file_without_an_end_is_not_read(tmp_path: Path, name: str) -> None:
    pipe = tmp_path / name
    if name == "pipe":
        os.mkfifo(pipe)
    else:
        pipe.symlink_to("/dev/zero")
    for read in (checkpoint.read, read_bytes, lambda path: parse(Config, ["--config", str(path)])):
        with pytest.raises(
            UserError,
            match=f"(?s)(?=.*{name}).*not a file",
        ):
            read(pipe)
