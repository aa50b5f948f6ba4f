"""Checkpoints: what is read of them, and what a user sees when one is unusable."""

import math
import os
import re
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from divdet.engine import checkpoint
from divdet.engine.checkpoint import Checkpoint, RunState
from divdet.engine.errors import UserError
from tests.fuzz.damage import KINDS, damage, judge_damage


class Payload:
    def __reduce__(self) -> tuple:
        return os.system, ("echo owned",)


def test_unusable_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "absent.pt")
    with pytest.raises(UserError, match=r"is a folder; name a checkpoint in it, such as .*best\.pt"):
        checkpoint.load(tmp_path)
    unusable = {"malicious.pt": {"model": Payload(), "kind": "detection"}, "foreign.pt": {"state_dict": {}}}
    for name, value in unusable.items():
        torch.save(value, tmp_path / name)
        with pytest.raises(UserError, match=name):
            checkpoint.load(tmp_path / name)
    good = tmp_path / "good.pt"
    checkpoint.save(Checkpoint("detection", {"w": torch.ones(2)}), good)
    assert checkpoint.load(good, "detection").model["w"].tolist() == [1, 1]
    with pytest.raises(UserError, match="a detection checkpoint where a classification checkpoint is needed"):
        checkpoint.load(good, "classification")
    good.write_bytes(good.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"good\.pt"):
        checkpoint.load(good)


def test_every_key_and_shape_must_match() -> None:
    model = torch.nn.Linear(2, 3)
    faults = r"f\.pt.*1 missing \(bias\).*1 unexpected \(b\).*weight is \[3, 3\], not \[3, 2\]"
    with pytest.raises(UserError, match=faults):
        checkpoint.load_weights(model, {"weight": torch.ones(3, 3), "b": torch.ones(3)}, "f.pt")


@pytest.mark.parametrize(
    "weights",
    [torch.ones(3, 2).to_sparse(), torch.ones(3, 2, dtype=torch.int64), torch.ones(3, 2, dtype=torch.complex64)],
    ids=["sparse", "whole numbers", "complex"],
)
def test_weights_are_dense_and_real(weights: torch.Tensor) -> None:
    model = torch.nn.Linear(2, 3, bias=False)
    with pytest.raises(UserError, match=r"f\.pt.*another kind of numbers, or not dense \(weight\)"):
        checkpoint.load_weights(model, {"weight": weights}, "f.pt")
    checkpoint.load_weights(model, {"weight": torch.ones(3, 2, dtype=torch.float16)}, "f.pt")


def test_only_what_the_file_is_to_blame_for_is_said_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(Checkpoint("detection", {"a": torch.zeros(1)}), path)
    before = path.read_bytes()
    for message, kind in (("PytorchStreamWriter failed writing file", UserError), ("DataLoader worker", RuntimeError)):

        def fail(*_: object, message: str = message) -> None:
            raise RuntimeError(message)

        monkeypatch.setattr(torch, "save", fail)
        with pytest.raises(kind, match=message):
            checkpoint.save(Checkpoint("detection", {"a": torch.ones(1)}), path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


def looped() -> list:
    inner: list = []
    inner.append(inner)
    return inner


def shared_out() -> list:
    """Few lists that hold endlessly many."""
    level: list = []
    for _ in range(9):
        level = [level] * 10
    return level


@pytest.mark.parametrize(
    "entry",
    [torch.zeros(2), (1, 2), {1: 2}, {"a": {None: 1}}, looped(), shared_out(), "\ud800", {"\ud800": 1}, {1, 2}, 1j],
    ids=["tensor", "tuple", "number", "null", "loop", "shared", "surrogate", "key", "set", "complex"],
)
def test_settings_of_a_checkpoint_are_plain(tmp_path: Path, entry: object) -> None:
    path = tmp_path / "odd.pt"
    torch.save({"model": {}, "kind": "detection", "meta": {"classes": ["a", 1, 2.5, None, True]}}, path)
    assert checkpoint.load(path).meta == {"classes": ["a", 1, 2.5, None, True]}
    torch.save({"model": {}, "kind": "detection", "config": {"model": entry}}, path)
    with pytest.raises(UserError, match=r"odd\.pt: .*holds other|odd\.pt: refused"):
        checkpoint.load(path)


def test_an_old_format_that_names_no_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"model": {"w": torch.ones(2)}}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    key = re.findall(rb"\d{8,}", content)[-1]
    at = content.rindex(key)
    path.write_bytes(content[:at] + bytes(reversed(key)) + content[at + len(key) :])
    with pytest.raises(UserError, match=r"old\.pt: not a readable checkpoint"):
        checkpoint.load(path)


def test_a_damaged_file_is_refused_or_read_as_it_was_written(tmp_path: Path) -> None:
    """benchmarks/damage.py has more of them, and of a whole detector."""
    path, draw = tmp_path / "best.pt", Random(0)
    model = {"w": torch.randn(20, 30), "b": torch.zeros(3), "count": torch.zeros((), dtype=torch.int64)}
    written = Checkpoint("detection", model, {}, {"categories": [{"id": 1, "name": "cat"}]})
    checkpoint.save(written, path)
    data = path.read_bytes()
    ends = Counter()
    for kind in KINDS:
        for _ in range(100 if kind == "bit" else 20):
            path.write_bytes(damage(draw, data, kind))
            ends[judge_damage(path, written)] += 1
    assert ends["refused"] > 100
    assert not ends["wrong"], ends


def test_records_that_torch_never_writes_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.zeros(10**6)}, "kind": "detection"}, tmp_path / "good.pt")
    path = tmp_path / "bad.pt"

    def rewrite(method: int, *, twice: bool = False) -> None:
        with zipfile.ZipFile(tmp_path / "good.pt") as old, zipfile.ZipFile(path, "w", method) as new:
            for name in old.namelist() * (1 + twice):
                new.writestr(name, old.read(name))

    rewrite(zipfile.ZIP_STORED)
    assert checkpoint.load(path).model["w"].shape == (10**6,)
    rewrite(zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**5
    with pytest.raises(UserError, match=r"bad\.pt: damaged, or not written by torch\.save: its .*is compressed"):
        checkpoint.load(path)
    with pytest.warns(UserWarning, match="Duplicate name"):
        rewrite(zipfile.ZIP_STORED, twice=True)
    with pytest.raises(UserError, match=r"bad\.pt: damaged.*two of its records have the same name"):
        checkpoint.load(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_published_files_of_both_formats_are_read(tmp_path: Path, zipped: bool) -> None:
    weights = {"w": torch.randn(3, 4)}
    torch.save({"state_dict": weights}, tmp_path / "old.pth", _use_new_zipfile_serialization=zipped)
    assert torch.equal(checkpoint.read(tmp_path / "old.pth")["state_dict"]["w"], weights["w"])


def test_what_is_written_is_read_and_settings_have_their_type(tmp_path: Path) -> None:
    run = RunState(
        1, {"batches": 4, "batch_images": 2, "accumulate": 1}, {"loss": 0.5}, {}, 0, {}, {}, -math.inf, kept=[3]
    )
    config = {"model": {"members": 2, "backbone": "a"}, "data": {"root": None}}
    written = Checkpoint(
        "detection", {"w": torch.ones(1)}, config, {"names": ["a"]}, 1, [{"epoch": 1, "loss": 2.5}], run
    )
    path = tmp_path / "last.pt"
    checkpoint.save(written, path)
    assert checkpoint.load(path) == replace(written, source=str(path))
    assert list(torch.load(path, weights_only=True)) == [
        *["kind", "model", "config", "meta", "epoch", "history"],
        *vars(run),
    ]
    assert checkpoint.load(path).setting("model.backbone", str) == "a"
    assert checkpoint.load(path).setting("data.root", str, type(None)) is None
    for key in ("model.backbone.x", "data.root", "train.lr"):
        with pytest.raises(UserError, match=rf"last\.pt: its {key} is missing or damaged; use another checkpoint"):
            checkpoint.load(path).setting(key, str)
    with pytest.raises(UserError, match=r"last\.pt: its model\.members is 2, but it holds 1 weights"):
        _ = checkpoint.load(path).members
