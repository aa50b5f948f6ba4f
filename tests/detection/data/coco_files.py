"""Sound COCO ground truth of three images, for tests to change."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detection.data.annotations import CocoAnnotations
from detection.data.coco import load_annotations

NAMES = ("a.jpg", "b.jpg", "c d.jpg")


def sound() -> dict[str, Any]:
    """Twelve boxes in three images of 200 x 100."""
    boxes = [[20 + 30 * row, 15 + 10 * row, 40 + row, 30] for row in range(4)]
    return {
        "images": [{"id": i, "file_name": name, "width": 200, "height": 100} for i, name in enumerate(NAMES, 1)],
        "annotations": [
            {
                "id": 4 * i + row,
                "image_id": i,
                "category_id": 1 + row % 2,
                "bbox": box,
                "area": 9.5,
                "iscrowd": row // 3,
            }
            for i in (1, 2, 3)
            for row, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "box"}, {"id": 2, "name": "disc"}],
    }


def read(folder: Path, data: Any, **kwargs: Any) -> CocoAnnotations:
    path = folder.parent / "truth.json"
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return load_annotations(path, folder, **kwargs)


def each(part: str, change: Callable[[dict], Any]) -> Callable[[], dict]:
    """The sound data with every entry of a list changed: updated by what ``change`` returns."""

    def changed() -> dict:
        data = sound()
        for entry in data[part]:
            entry.update(change(entry) or {})
        return data

    return changed


def renamed(form: str) -> Callable[[], dict]:
    return each("images", lambda entry: {"file_name": form.format(entry["file_name"])})
