"""Compiled loops where nothing can be cached, and their threads."""

import threading
import warnings

import pytest

from detection.kernels.compiled import compiled, in_threads


def test_without_a_cache_one_warning_names_the_remedy() -> None:
    names: dict = {}
    exec("def twice(x):\n    return 2 * x\n\ndef thrice(x):\n    return 3 * x", names)  # of no file to cache beside
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")  # as a program shows them
        twice, thrice = compiled(names["twice"]), compiled(names["thrice"])
    assert (twice(4), thrice(4)) == (8, 12)
    assert [("NUMBA_CACHE_DIR" in str(warning.message)) for warning in shown] == [True]


@pytest.mark.parametrize(("total", "threads"), [(10, 1), (10, 3), (3, 8), (0, 2)])
def test_parts_cover_everything_once(total: int, threads: int) -> None:
    parts: list[range] = []
    in_threads(lambda first, end: parts.append(range(first, end)), total, threads)
    assert sorted(i for part in parts for i in part) == list(range(total))
    assert len(parts) == max(1, min(total, threads))


def test_parts_run_at_the_same_time() -> None:
    barrier = threading.Barrier(2)
    in_threads(lambda first, end: barrier.wait(timeout=30), 2, 2)


def test_an_error_in_a_thread_arrives() -> None:
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda first, end: 1 // first, 4, 2)
