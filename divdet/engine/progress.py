"""Progress bars."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

from divdet.engine.distributed import is_main_process

Item = TypeVar("Item")


def progress(
    items: Iterable[Item], description: str, unit: str = "it", total: int | None = None, initial: int = 0
) -> "tqdm[Item]":
    """Wraps ``items`` in a bar on stderr, shown by the main process and on terminals only."""
    disable = None if is_main_process() else True  # None: unless stderr is a terminal
    options = {"disable": disable, "leave": False, "dynamic_ncols": True}
    return tqdm(items, desc=description, unit=unit, total=total, initial=initial, **options)
