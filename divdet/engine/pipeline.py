"""Work in threads ahead of whoever takes its results: reading before the network, writing behind it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int) -> Iterator[Result]:
    """Calls ``work`` on each item in threads, and gives the results in the order of the items.

    Items are taken in the caller's thread, as results are. An exception of ``work`` comes in the place of its result.
    When the generator ends or is closed, work that has begun is finished, and the rest is dropped.

    Args:
        work: worth threads where it leaves Python's lock, as OpenCV, file systems and networks do.
        items: any number of them.
        threads: 0 calls ``work`` in the caller's thread, one item after the other.
        ahead: how many items may have begun, or be done, before the first of them is taken; at least 1.
    """
    if threads == 0:
        yield from map(work, items)
        return
    begun = deque[Future]()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) >= ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
