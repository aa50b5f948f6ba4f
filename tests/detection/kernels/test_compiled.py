"""Compiled loops where nothing can be cached, and their threads."""

import threading

import numpy as np
import pytest

from detection.kernels.compiled import compiled, in_threads, sort_descending


def test_without_a_cache_a_warning_names_the_remedy() -> None:
    names: dict = {}
    exec("def twice(x):\n    return 2 * x", names)  # of no file, so numba has no place for a cache
    with pytest.warns(UserWarning, match="NUMBA_CACHE_DIR"):
        twice = compiled("int64(int64)")(names["twice"])
    assert twice(4) == 8


@pytest.mark.parametrize(("total", "threads"), [(10, 1), (10, 3), (3, 8), (0, 2)])
def test_parts_cover_everything_once_and_in_order(total: int, threads: int) -> None:
    parts = list(in_threads(lambda first, end: list(range(first, end)), total, threads))
    assert [i for part in parts for i in part] == list(range(total))
    assert len(parts) <= max(1, threads)


def test_parts_run_at_the_same_time() -> None:
    barrier = threading.Barrier(2)
    in_threads(lambda first, end: barrier.wait(timeout=30), 2, 2)


def test_an_error_in_a_thread_arrives() -> None:
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda first, end: 1 // first, 4, 2)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, 1000])
@pytest.mark.parametrize("values", [3, 10**6])
def test_sorting_is_stable(size: int, values: int) -> None:
    rng = np.random.default_rng(size)
    for keys in (rng.integers(values, size=size).astype(float), -np.arange(size) // 2.0, np.arange(size) // 2.0):
        order = np.arange(size + 4)
        sort_descending(order, 2, size + 2, np.concatenate(([9, 9], keys, [9, 9])), np.empty_like(order))
        assert order.tolist() == [0, 1, *(np.argsort(-keys, kind="stable") + 2), size + 2, size + 3]
