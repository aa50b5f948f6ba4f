"""Processes that load data: one core, a group of their own, and an end with their parent."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import time

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from divdet.engine.distributed import World
from divdet.engine.errors import UserError
from divdet.engine.loading import Loader
from divdet.engine.loop import training_loader
from divdet.engine.settings import TrainSettings
from divdet.engine.stopping import stop_on_signals


class Facts(Dataset):
    """What each process that loads data says of itself."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, key: tuple[int, int]) -> list[int]:
        return [cv2.getNumThreads(), torch.get_num_threads(), os.getpgrp(), os.getpid()]


def test_workers_compute_on_one_core_in_a_group_of_their_own() -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)  # as on a machine of several cores
    try:
        settings = TrainSettings(batch_size=2, workers=2)
        for _ in range(5):
            # OpenCV's threads are busy; a forked process that waited for them would wait for ever, most of the time.
            cv2.cvtColor(np.zeros((400, 400, 3), np.uint8), cv2.COLOR_RGB2HSV)
            loader = training_loader(Facts(), settings, 0, torch.device("cpu"), World(), collate_fn=list, timeout=60)
            facts = [fact for batch in loader for fact in batch]
            assert len({process for *_, process in facts}) == 2
            for opencv, own, group, process in facts:
                assert (opencv, own) == (1, 1)
                assert group == process != os.getpgrp()
    finally:
        cv2.setNumThreads(before)


class Numbers(Dataset):
    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> int:
        return os.getpid()


def test_a_worker_ends_at_its_parents_sigterm_and_at_no_other() -> None:
    with Loader(Numbers(), 1, 1, torch.device("cpu")) as loader:
        numbers = iter(loader)
        worker = next(process for process in multiprocessing.active_children() if process.pid == int(next(numbers)))
        for signal_name in ("-TERM", "-TERM", "-INT"):  # of another process, as of a job manager
            subprocess.run(["kill", signal_name, str(worker.pid)], check=True)
        assert {int(number) for number in itertools.islice(numbers, 20)} == {worker.pid}
        worker.terminate()
        worker.join(10)
        assert worker.exitcode == 0  # DataLoader would report any other


def test_a_worker_heeds_sigterm_from_its_first_moment() -> None:
    with stop_on_signals() as stopping, Loader(Numbers(), 1, 2, torch.device("cpu")) as loader:
        before = set(multiprocessing.active_children())
        iter(loader)
        workers = set(multiprocessing.active_children()) - before
        for worker in workers:  # perhaps before it has run a line of ours
            worker.terminate()
        for worker in workers:
            worker.join(20)
        assert [worker.exitcode for worker in workers] == [0, 0]
    assert not stopping.signal


class Damaged(Numbers):
    def __getitem__(self, index: int) -> int:
        raise UserError("damaged")


def use(loader: Loader) -> list:
    with loader:
        return list(loader)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_end_when_an_error_leaves_the_block(persistent: bool) -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(UserError, match="damaged") as caught:
        use(Loader(Damaged(), 1, 2, torch.device("cpu"), persistent_workers=persistent))
    assert caught.tb  # which keeps DataLoader's iterator
    assert set(multiprocessing.active_children()) == before


def test_a_loader_can_be_used_again() -> None:
    loader = Loader(Numbers(), 1, 1, torch.device("cpu"), persistent_workers=True)
    first, second = use(loader), use(loader)
    assert len(first) == len(second) == 100
    assert first[0] != second[0]  # of another worker


def test_a_child_of_a_training_process_ends_at_sigterm() -> None:
    with stop_on_signals():
        reader, writer = os.pipe()
        forked = os.fork()
        if not forked:
            os.write(writer, b" ")
            time.sleep(60)
            os._exit(0)
        os.read(reader, 1)
        os.kill(forked, signal.SIGTERM)
        assert os.WTERMSIG(os.waitpid(forked, 0)[1]) == signal.SIGTERM
