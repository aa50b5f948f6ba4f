"""What readers of formats return."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple


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
