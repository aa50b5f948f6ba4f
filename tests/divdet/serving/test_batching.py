"""Batches: who shares one, who waits, who is refused, and what a failure costs."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from divdet.serving.batching import Batcher
from divdet.serving.metrics import Metrics
from divdet.serving.refusals import Refused
from tests.divdet.serving.services import wait_for


class Doubling:
    """Doubles numbers, once ``gate`` is open; fails at 13."""

    def __init__(self) -> None:
        self.gate, self.batches = threading.Event(), []
        self.gate.set()

    def __call__(self, numbers: Sequence[int], wanted: Sequence[Any]) -> list[int]:
        self.batches.append(list(numbers))
        assert self.gate.wait(20)
        if 13 in numbers:
            raise ValueError("13")
        return [2 * number for number in numbers]


@contextmanager
def batching(run: Callable, prepare: Callable = lambda data: data, **options: Any) -> Iterator[Batcher]:
    batcher = Batcher(prepare, run, Metrics(), **options)
    try:
        yield batcher
    finally:
        batcher.close(20)


def test_what_waits_shares_a_batch_in_order() -> None:
    run = Doubling()
    run.gate.clear()
    with batching(run, max_batch=3, workers=1) as batcher:
        first = batcher.submit(0, None)
        wait_for(lambda: run.batches == [[0]])
        jobs = [batcher.submit(number, None) for number in range(1, 8)]
        wait_for(lambda: not batcher._coming)
        run.gate.set()
        assert [job.result.result(20) for job in (first, *jobs)] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert run.batches == [[0], [1, 2, 3], [4, 5, 6], [7]]
    assert [job.batch for job in jobs] == [3, 3, 3, 3, 3, 3, 1]
    assert batcher.metrics.registry.get_sample_value("divdet_batch_size_sum") == 8


def test_a_lone_image_does_not_wait_for_others() -> None:
    with batching(Doubling(), max_wait=60) as batcher:
        assert batcher.submit(4, None).result.result(20) == 8


def test_an_image_waits_for_others_that_are_on_their_way() -> None:
    run, decoding = Doubling(), threading.Event()

    def prepare(number: int) -> int:
        assert number != 2 or decoding.wait(20)
        return number

    with batching(run, prepare, max_batch=2, max_wait=60, workers=2) as batcher:
        second, first = batcher.submit(2, None), batcher.submit(1, None)
        time.sleep(0.05)
        assert not run.batches
        decoding.set()
        assert (first.result.result(20), second.result.result(20)) == (2, 4)
    assert run.batches == [[1, 2]]


def test_a_full_queue_refuses_and_recovers() -> None:
    run = Doubling()
    run.gate.clear()
    with batching(run, queue=3, max_batch=2) as batcher:
        jobs = [batcher.submit(number, None) for number in range(3)]
        with pytest.raises(Refused, match="3 images are waiting") as refused:
            batcher.submit(9, None)
        assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
        run.gate.set()
        assert [job.result.result(20) for job in jobs] == [0, 2, 4]
        wait_for(lambda: not batcher.full)
        assert batcher.submit(9, None).result.result(20) == 18


def test_a_failure_is_that_image_s_alone() -> None:
    run = Doubling()
    run.gate.clear()
    with batching(run, max_batch=4, workers=1) as batcher:
        jobs = [batcher.submit(number, None) for number in (0, 1, 13, 3)]
        wait_for(lambda: not batcher._coming)
        run.gate.set()
        assert [jobs[place].result.result(20) for place in (0, 1, 3)] == [0, 2, 6]
        with pytest.raises(ValueError, match="13"):
            jobs[2].result.result(20)
        assert batcher.submit(5, None).result.result(20) == 10


def test_an_image_that_cannot_be_prepared_frees_its_place() -> None:
    def prepare(number: int) -> int:
        return 1 // number

    with batching(Doubling(), prepare, queue=1, max_batch=1) as batcher:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                batcher.submit(0, None).result.result(20)
        assert batcher.submit(1, None).result.result(20) == 2


def test_a_cancelled_image_is_not_begun() -> None:
    run = Doubling()
    run.gate.clear()
    with batching(run, max_batch=1) as batcher:
        first = batcher.submit(0, None)
        wait_for(lambda: run.batches == [[0]])
        second, third = batcher.submit(1, None), batcher.submit(2, None)
        assert second.result.cancel()
        assert not first.result.cancel()  # it is at work
        run.gate.set()
        assert third.result.result(20) == 4
    assert [1] not in run.batches
    assert batcher.metrics.registry.get_sample_value("divdet_dropped_images_total") == 1
    assert batcher._held == 0


def test_closing_finishes_what_was_taken_in() -> None:
    run = Doubling()
    run.gate.clear()
    with batching(run, max_batch=2) as batcher:
        jobs = [batcher.submit(number, None) for number in range(6)]
        threading.Timer(0.05, run.gate.set).start()
        batcher.close(20)
        assert [job.result.result(0) for job in jobs] == [0, 2, 4, 6, 8, 10]
        with pytest.raises(Refused, match="stopping"):
            batcher.submit(0, None)


def test_what_fails_before_is_said() -> None:
    def before() -> None:
        raise MemoryError("too large")

    with batching(Doubling(), before=before) as batcher, pytest.raises(MemoryError, match="too large"):
        batcher.wait_until_ready()
