"""Processes that load data."""

import os
import signal
from types import FrameType

import cv2


def start_worker(worker: int) -> None:
    """What a process that loads data (its number, from 0) does first; a DataLoader's ``worker_init_fn``.

    It leaves the training process's group: torchrun and terminals send their signals to the group, of which the
    training process must live on to save. Signals to all processes of a job it lets pass once; it ends with the
    training process. And it computes on one core, OpenCV's part included (torch sees to its own): by default each would
    start a thread for every core.
    """
    os.setpgrp()
    # systemd, SLURM and Docker signal every process of a job, and the first that ends would end the training.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ignore_once)
    cv2.setNumThreads(0)  # no threads at all: 1 would wait for those of the forked process, which are not here


def _ignore_once(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # the next is of a parent that gives up on a process that hangs
