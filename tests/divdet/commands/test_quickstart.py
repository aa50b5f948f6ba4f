"""What the quickstart does with an earlier run; the pipeline itself is tested part by part."""

from pathlib import Path
from typing import Any

import pytest

from divdet.commands import quickstart as module
from divdet.commands.network_settings import Quickstart
from divdet.commands.quickstart import quickstart
from divdet.engine.errors import UserError
from divdet.engine.stopping import Stopped


def test_earlier_run_is_kept_where_the_data_is_refused(tmp_path: Path) -> None:
    for name, text in {"data/generated.json": "{bad", "detector/best.pt": "weights"}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=r"generated\.json: not readable as JSON"):
        quickstart(Quickstart(output=str(tmp_path), device="cpu"))
    assert (tmp_path / "detector/best.pt").read_text() == "weights"


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        quickstart(Quickstart(output=str(tmp_path / ("x" * 300)), device="cpu"))


def test_a_stopped_one_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise Stopped(2, "continue with --resume auto")

    monkeypatch.setattr(module, "generate", lambda *_: None)
    monkeypatch.setattr(module, "train", train)
    with pytest.raises(Stopped, match="run the quickstart again") as stopped:
        quickstart(Quickstart(output=str(tmp_path), device="cpu"))
    assert stopped.value.exit_code == 130
