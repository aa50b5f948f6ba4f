"""Work of the main process that others wait for: its result, its error and its death reach them."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from divdet.engine.distributed import World
from divdet.engine.errors import UserError
from divdet.engine.launch import _PATIENCE, _mesh


def _process(rank: int, folder: Path, compute: Callable[[], object]) -> None:
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
    world = World(0, 1, rank, 2, _mesh("cpu", torch.arange(2).view(2, 1)), patient)

    def on_main() -> object:
        assert rank == 0, "another process did the work"
        return compute()

    try:
        text = repr(world.await_main(on_main))
        if text == "'then one dies'":
            if rank:
                os._exit(9)
            world.await_all()
    except UserError as error:
        text = f"error: {error}"
    (folder / f"{rank}.txt").write_text(text)
    os._exit(0)


def outcome(compute: Callable[[], object], folder: Path) -> list[str]:
    """What each of two processes got."""
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=_process, args=(rank, folder, compute)) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
        assert process.exitcode is not None, "it hangs"
    files = [folder / f"{rank}.txt" for rank in range(2)]
    return [file.read_text() if file.exists() else "" for file in files]


def test_all_get_the_result(tmp_path: Path) -> None:
    assert outcome(lambda: {"images": 3}, tmp_path) == ["{'images': 3}"] * 2


def test_an_error_ends_all_and_is_told_once(tmp_path: Path) -> None:
    def fail() -> None:
        raise UserError("train.json: faulty")

    assert outcome(fail, tmp_path) == [
        "error: train.json: faulty",
        "error: the first process has stopped: its message says why",
    ]


def test_the_death_of_the_main_process_is_noticed(tmp_path: Path) -> None:
    main, other = outcome(lambda: os._exit(9), tmp_path)
    assert main == ""
    assert other == "error: another process of this run has ended: its message says why"


def test_the_death_of_another_process_is_noticed_at_once(tmp_path: Path) -> None:
    assert outcome(lambda: "then one dies", tmp_path) == [
        "error: another process of this run has ended: its message says why",
        "",
    ]


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "new_group", None)
    assert World().await_main(lambda: 3) == 3
