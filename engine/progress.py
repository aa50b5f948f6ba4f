"""Progress bars, on a terminal only."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], description: str, unit: str = "it", total: int | None = None) -> "tqdm[Item]":
    """``items`` behind a bar with rate and ETA on stderr; silent where stderr is no terminal."""
    return tqdm(items, desc=description, unit=unit, total=total, disable=None, leave=False, dynamic_ncols=True)
