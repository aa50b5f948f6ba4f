"""What readers of formats return."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from detection.images import IMAGE_SUFFIXES
from divdet.engine.errors import UserError


class Content(NamedTuple):
    """Annotations of any format in COCO's form.

    Attributes:
        data: ``images``, ``annotations`` and ``categories``, for ``detection.data.coco.ground_truth_from``.
        images: folder that ``file_name`` is relative to.
        counts: what was changed or assumed, for ``CocoAnnotations.counts``.
    """

    data: dict[str, list[dict[str, Any]]]
    images: Path
    counts: Counter[str]


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder and its subfolders, by suffix; raises UserError where there is no folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of images")
    files = (path for path in folder.rglob("*") if not path.name.startswith("."))  # macOS writes ._NAME.jpg
    return [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
