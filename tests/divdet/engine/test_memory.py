"""Freed memory is used again, in every thread."""

import subprocess
import sys

import pytest

COUNT_FAULTS = """
import os, resource, sys, threading
os.environ["NUMPY_MADVISE_HUGEPAGE"] = "0"  # one fault would bring 2 MiB
import numpy as np
from divdet.engine.tuning import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(5):
        arrays = [np.ones(2_500_000) for _ in range(8)]  # 160 MB
        del arrays
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

def count():
    faults()
    print(faults())

if "keep" in sys.argv and not keep_freed_memory():
    sys.exit("not taken")
count()
thread = threading.Thread(target=count)
thread.start()
thread.join()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc's allocator")
def test_no_page_is_faulted_in_anew() -> None:
    def faults(*words: str) -> list[int]:
        done = subprocess.run([sys.executable, "-c", COUNT_FAULTS, *words], capture_output=True, text=True, check=True)
        return [int(line) for line in done.stdout.split()]

    kept, default = faults("keep"), faults()  # in the first thread and another one
    assert max(kept) < min(default) / 4
