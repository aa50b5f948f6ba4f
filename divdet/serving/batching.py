"""Images of many requests in common forward passes."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from divdet.engine.errors import UserError
from divdet.serving.metrics import Metrics
from divdet.serving.refusals import Refused

_FAILING = 3  # images that fail one after the other: a GPU that has failed once fails for ever


@dataclass(eq=False)
class Job:
    """An image on its way.

    Attributes:
        data: what was sent; after ``prepare`` what that made of it.
        wanted: what is asked of it.
        result: what ``run`` finds, or the exception of either. Cancelled, it is not begun.
        seconds: how long it was decoded, how long it waited, and how long its batch ran.
        batch: images of its batch.
    """

    data: Any
    wanted: Any
    result: Future[Any] = field(default_factory=Future)
    seconds: dict[str, float] = field(default_factory=dict)
    batch: int = 0
    _since: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Notes the time since the last lap, or since the start, as that of a stage."""
        now = time.perf_counter()
        self.seconds[stage], self._since = now - self._since, now


class Batcher:
    """Prepares images in threads, and runs those that wait together in a thread of its own.

    A batch begins as soon as the one before it is done. It takes what waits, and waits up to ``max_wait`` for images
    that are already on their way, so that a lone client never waits.

    Args:
        prepare: from a job's ``data``, in several threads, to what ``run`` takes.
        run: from prepared images, and what is asked of each, to results: in one thread.
        metrics: what happens is counted here.
        max_batch: most images of a batch.
        max_wait: seconds.
        queue: most images taken in and not finished.
        workers: threads that prepare.
        before: called first in the thread of ``run``.
    """

    def __init__(
        self,
        prepare: Callable[[Any], Any],
        run: Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]],
        metrics: Metrics,
        max_batch: int = 8,
        max_wait: float = 0.005,
        queue: int = 128,
        workers: int = 2,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.prepare, self.run, self.before, self.metrics = prepare, run, before, metrics
        self.max_batch, self.max_wait, self.queue = max_batch, max_wait, queue
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._held = self._coming = 0  # images taken in; of these, those that are still being prepared
        self._closed = False
        self._failures = 0  # batches that failed one after the other
        self._ready: Future[None] = Future()
        self._pool = ThreadPoolExecutor(workers, "decode")
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        metrics.queue.set_function(lambda: self._held)
        self._thread.start()

    def wait_until_ready(self) -> None:
        """Waits for ``before``; raises what it raised."""
        self._ready.result()

    @property
    def failing(self) -> bool:
        """Whether it has failed: its thread has ended, or the last images have all failed."""
        return not self._thread.is_alive() or self._failures >= _FAILING

    @property
    def full(self) -> bool:
        """Whether no further image is taken in."""
        return self._held >= self.queue

    def submit(self, data: Any, wanted: Any) -> Job:
        """Takes an image in; raises Refused where too many are in already."""
        with self._changed:
            if self._closed:
                raise Refused(503, "the service is stopping: try another one")
            if self.full:
                raise Refused(429, f"{self.queue} images are waiting already: try again later")
            self._held += 1
            self._coming += 1
        job = Job(data, wanted)
        self._pool.submit(self._prepare, job)
        return job

    def close(self, wait: float | None = None) -> None:
        """Finishes all that was taken in, and ends the threads; gives up after ``wait`` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(wait)
        self._pool.shutdown(wait=False)

    def _prepare(self, job: Job) -> None:
        error: BaseException | None = None
        job.lap("decode_wait")
        try:
            if not job.result.cancelled():
                job.data = self.prepare(job.data)
        except BaseException as raised:  # the request's, whatever it is
            error = raised
        job.lap("decode")
        with self._changed:
            self._coming -= 1
            if error is None:
                self._waiting.append(job)
            else:
                self._held -= 1
            self._changed.notify_all()
        if error is not None and job.result.set_running_or_notify_cancel():
            job.result.set_exception(error)

    def _work(self) -> None:
        try:
            self.before()
        except BaseException as error:
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        while jobs := self._collect():
            begun = [job for job in jobs if job.result.set_running_or_notify_cancel()]
            self.metrics.dropped.inc(len(jobs) - len(begun))
            if begun:
                self._run(begun)
            with self._changed:
                self._held -= len(jobs)
            del jobs, begun  # or the images would be held until the next ones come

    def _collect(self) -> list[Job]:
        """The next batch; empty when closed and done."""
        with self._changed:
            while not self._waiting:
                if self._closed and not self._coming:
                    return []
                self._changed.wait()
            end = time.monotonic() + self.max_wait
            while len(self._waiting) < self.max_batch and self._coming and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            return [self._waiting.popleft() for _ in range(min(self.max_batch, len(self._waiting)))]

    def _run(self, jobs: list[Job]) -> None:
        for job in jobs:
            job.lap("wait")
            job.batch = len(jobs)
        try:
            results = self.run([job.data for job in jobs], [job.wanted for job in jobs])
            if len(results) != len(jobs):
                raise RuntimeError(f"{len(results)} results of {len(jobs)} images")
        except BaseException as error:
            if len(jobs) == 1:
                self._failures += not isinstance(error, UserError)
                jobs[0].result.set_exception(error)
                return
            for job in jobs:  # its neighbors must not suffer for one that fails
                self._run([job])
            return
        self._failures = 0
        self.metrics.batch.observe(len(jobs))
        for job, result in zip(jobs, results, strict=True):
            job.lap("inference")
            job.result.set_result(result)
