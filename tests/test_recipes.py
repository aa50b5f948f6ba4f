"""Every recipe and every command line as its tool reads it."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.evidence.rows import PROTOCOLS, Row
from classification.backbones.registry import member_specs
from classification.settings import EvaluateClassification, TrainClassification
from detection.settings import TrainDetection
from divdet.commands.network_settings import Benchmark, ImportCheckpoint, Summary
from divdet.engine.cli import parse
from divdet.engine.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recipes_are_read_by_their_tool(path: Path) -> None:
    config = parse({"cls": TrainClassification, "det": TrainDetection}[path.parent.name], ["--config", str(path)])
    assert config.output == str(Path("runs") / path.stem)
    large = path.parent.name == "det" or config.data.dataset == "imagenet"
    member_specs(config.model.backbone, config.model.members, "imagenet" if large else "cifar")  # raises without one


TOOLS = {
    "train_cls.py": TrainClassification,
    "eval_cls.py": EvaluateClassification,
    "train_det.py": TrainDetection,
    "summary.py": Summary,
    "benchmark.py": Benchmark,
    "import_checkpoint.py": ImportCheckpoint,
}
COMMANDS = re.findall(r"`(\w+\.py --[^`]*)`", (CONFIGS.parent / "docs/reproduce.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_papers_rows_are_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    tool, *words = command.split()
    config = parse(TOOLS[tool], words)
    assert tool not in ("train_cls.py", "train_det.py") or config.output.startswith("runs/")


@pytest.mark.parametrize("row", [row for rows in PROTOCOLS.values() for row in rows], ids=lambda row: row.name)
def test_rows_of_the_evidence_can_be_trained(row: Row) -> None:
    def read(row: Row) -> tuple[Any, str]:
        words = ["--config", str(CONFIGS / row.config), *row.words, f"--model.members={row.members}"]
        config = parse({"cls": TrainClassification, "det": TrainDetection}[row.task], words)
        if row.task == "det":
            return config, "imagenet"
        auto = "cifar" if config.data.image_size in (None, 32, 64) else "imagenet"
        return config, auto if config.model.stem == "auto" else config.model.stem

    config, form = read(row)
    with torch.device("meta"):
        member_specs(config.model.backbone, row.members, form)[0].build(row.members, form, 10, dropout=0.0)
    assert row.task == "det" or config.data.dataset == "npz"
    assert not row.members > 1 or config.train.cot_warmup_epochs < config.train.epochs
    if row.start:
        before = next(other for rows in PROTOCOLS.values() for other in rows if other.name == row.start)
        theirs, their_form = read(before)
        members = 1 if row.divide else row.members
        assert (theirs.model.backbone, before.members, their_form) == (config.model.backbone, members, form)
        assert set(row.seeds) <= set(before.seeds)


def test_every_table_of_the_paper_has_its_commands() -> None:
    assert len(COMMANDS) > 50


@pytest.mark.parametrize(
    ("words", "json"), [([], False), (["--json"], True), (["--json", "true"], True), (["--json", "false"], False)]
)
def test_a_bare_flag_is_true(words: list[str], json: bool) -> None:
    assert parse(Summary, ["--backbone", "wrn50_2", *words, "--members", "2"]).json is json


def test_a_misspelt_key_names_itself() -> None:
    with pytest.raises(UserError, match="trian"):
        parse(TrainDetection, ["--trian.lr", "1"])
