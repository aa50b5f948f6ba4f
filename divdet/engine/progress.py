"""Progress bars, on a terminal only."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

from divdet.engine.distributed import is_main_process

Item = TypeVar("Item")


def progress(
    items: Iterable[Item], description: str, unit: str = "it", total: int | None = None, initial: int = 0
) -> "tqdm[Item]":
    """``items`` behind a bar with rate and ETA on stderr, of the first process, and only where that is a terminal."""
    hidden = None if is_main_process() else True  # None: where there is no terminal
    options = {"disable": hidden, "leave": False, "dynamic_ncols": True}
    return tqdm(items, desc=description, unit=unit, total=total, initial=initial, **options)
