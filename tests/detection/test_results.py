"""What a results file may hold, and what a user sees where it holds something else."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from detection.annotations import CocoAnnotations, load_annotations
from detection.results import Results, load_results
from engine.errors import UserError

GOOD = {"image_id": 2**40 + 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}
BAD_RESULTS = {
    "not a list": ({"images": []}, "the results file is an object, not a list"),
    "not objects": ([[1, 2]], "the results file[0] is a list, not an object"),
    "unknown image": ([GOOD, {**GOOD, "image_id": 5}], "detections[1] has image_id 5, which"),
    "unknown category": ([{**GOOD, "category_id": 2}], "detections[0] has category_id 2, which"),
    "text id": ([{**GOOD, "image_id": "5"}], "has image_id '5', which is not an integer"),
    "no image": ([{key: GOOD[key] for key in ("category_id", "bbox", "score")}], "detections[0] has no image_id"),
    "no bbox": ([{key: GOOD[key] for key in ("image_id", "category_id", "score")}], "detections[0] has no bbox"),
    "no score": ([{key: GOOD[key] for key in ("image_id", "category_id", "bbox")}], "detections[0] has no score"),
    "NaN score": ([{**GOOD, "score": math.nan}], "has score nan, which is not a finite number"),
    "endless score": ([{**GOOD, "score": 10**400}], "which is not a finite number"),
    "null score": ([{**GOOD, "score": None}], "has score None, which is not a finite number"),
    "infinite box": ([{**GOOD, "bbox": [1, 2, math.inf, 4]}], "which is not four finite numbers"),
    "three numbers": ([{**GOOD, "bbox": [1, 2, 4]}], "which is not four finite numbers"),
    "true for a number": ([{**GOOD, "bbox": [1, 2, True, 4]}], "which is not four finite numbers"),
    "true for an id": ([{**GOOD, "category_id": True}], "has category_id True, which is not an integer"),
    "text for a box": ([{**GOOD, "bbox": "1234"}], "which is not four finite numbers"),
    "an object for a score": ([{**GOOD, "score": {}}], "which is not a finite number"),
    "negative width": ([{**GOOD, "bbox": [1, 2, -3, 4]}], "of negative size"),
    "far away": ([{**GOOD, "bbox": [1e10, 2, 3, 4]}], "which is not four finite numbers"),
}


@pytest.fixture
def annotations(tmp_path: Path) -> CocoAnnotations:
    """Two images, one of an id beyond float32; categories with gaps between their ids."""
    images = [{"id": number, "width": 99, "height": 99, "file_name": f"{number}.jpg"} for number in (7, 2**40 + 1)]
    categories = [{"id": number, "name": f"thing {number}"} for number in (1, 3, 17)]
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "categories": categories, "annotations": []}))
    return load_annotations(tmp_path / "truth.json", None)


def read(folder: Path, results: Any, annotations: CocoAnnotations) -> Results:
    (folder / "results.json").write_text(json.dumps(results))
    return load_results(folder / "results.json", annotations)


@pytest.mark.parametrize("case", BAD_RESULTS)
def test_bad_results_are_one_clear_line(tmp_path: Path, annotations: CocoAnnotations, case: str) -> None:
    content, expected = BAD_RESULTS[case]
    with pytest.raises(UserError) as error:
        read(tmp_path, content, annotations)
    assert str(error.value).startswith(f"{tmp_path / 'results.json'}: ")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_results_may_be_empty_or_hold_more_keys(tmp_path: Path, annotations: CocoAnnotations) -> None:
    assert len(read(tmp_path, [], annotations)) == 0
    loaded = read(tmp_path, [{**GOOD, "segmentation": [], "id": 0}], annotations)
    assert annotations.images[loaded.image[0]].id == GOOD["image_id"]
    assert annotations.category_ids[loaded.label[0]] == GOOD["category_id"]
    assert loaded.bbox.tolist() == [GOOD["bbox"]]
    assert loaded.score.tolist() == [GOOD["score"]]
