"""Processes that load data."""

import os

import cv2


def start_worker(worker: int) -> None:
    """What a process that loads data (its number, from 0) does first; a DataLoader's ``worker_init_fn``.

    It leaves the training process's group: torchrun and terminals send their signals to the group, of which the
    training process must live on to save. And it computes on one core, OpenCV's part included (torch sees to its own):
    by default each would start a thread for every core.
    """
    os.setpgrp()
    cv2.setNumThreads(0)  # no threads at all: 1 would wait for those of the forked process, which are not here
