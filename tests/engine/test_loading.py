"""Processes that load data keep to one core and out of the training process's group."""

import os

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from engine.distributed import World
from engine.loop import training_loader
from engine.optimization import TrainSettings


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
