"""Answers as plain values, for JSON."""

from typing import Any

from detection.detections import Detections
from divdet.serving.runner import Found


def answer_of(found: Found, members: bool) -> dict[str, Any]:
    """What was found in an image; numbers are float32 as ``Detector.predict`` gives them, unrounded.

    Args:
        found: the detections.
        members: add each member's own boxes.
    """
    width, height = found.size
    answer: dict[str, Any] = {"width": width, "height": height, "detections": objects_of(found.detections)}
    if members:
        answer["members"] = [objects_of(member) for member in found.detections.members]
    return answer


def objects_of(found: Detections) -> list[dict[str, Any]]:
    """Each object: ``box`` (x1, y1, x2, y2 in pixels), ``score``, ``label`` (0-based), ``name``, ``category_id``."""
    ids = found.category_ids
    return [
        {"box": box, "score": score, "label": label, "name": name, "category_id": ids[label] if ids else None}
        for box, score, label, name in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), found.names, strict=True
        )
    ]
