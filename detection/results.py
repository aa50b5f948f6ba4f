"""Detections in COCO's results format: a list of ``{image_id, category_id, bbox: [x, y, w, h], score}``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detection.annotations import CocoAnnotations
from detection.coco_json import bbox_problem, check_objects, entry_error, id_problem, is_number, read_json, show


def load_results(results_path: str | Path, annotations: CocoAnnotations) -> list[dict[str, Any]]:
    """Read a COCO results file of any detector for scoring against ``annotations``, keeping the four keys above.

    Raises UserError for a file that is not a COCO results file and for malformed entries, or entries of images or
    categories that ``annotations`` does not list. An empty list is a legitimate result.
    """
    path = Path(results_path)
    entries = check_objects(path, read_json(path), "the results file")
    images, categories = {image.id for image in annotations.images}, set(annotations.category_ids)
    results = []
    for index, entry in enumerate(entries):
        problem = _problem(entry, images, categories, annotations.path)
        if problem:
            raise entry_error(path, "detections", index, entry, problem)
        results.append({key: entry[key] for key in ("image_id", "category_id", "bbox", "score")})
    return results


def _problem(entry: dict[str, Any], images: set[int], categories: set[int], ground_truth: Path) -> str | None:
    problem = id_problem(entry, "image_id") or id_problem(entry, "category_id") or bbox_problem(entry)
    if problem:
        return problem
    if entry["image_id"] not in images:
        return f"has image_id {entry['image_id']}, which {ground_truth} does not list; score against its own images"
    if entry["category_id"] not in categories:
        return f"has category_id {entry['category_id']}, which {ground_truth} does not list; use its category ids"
    if min(entry["bbox"][2:]) < 0:
        return f"has bbox {show(entry['bbox'])} of negative size; COCO boxes are x, y, width, height"
    if "score" not in entry:
        return "has no score"
    if not is_number(entry["score"]):
        return f"has score {show(entry['score'])}, which is not a finite number"
    return None
