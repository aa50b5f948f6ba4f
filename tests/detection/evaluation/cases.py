"""Random ground truth and results, and what pycocotools says of them."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.data.annotations import CocoAnnotations
from detection.data.coco import load_annotations
from detection.data.coco_results import Results, load_results, save_results
from detection.evaluation.coco_metrics import CocoEvaluator


def reference(truth: dict, results: list[dict]) -> tuple[list[float], list[float], str]:
    """pycocotools' 12 numbers, AP by category in ascending id, and printed summary; ids from 1 as it needs them."""
    truth = {**truth, "annotations": [{**entry, "id": i} for i, entry in enumerate(truth["annotations"], 1)]}
    coco = COCO()
    coco.dataset = truth
    printed = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    with contextlib.redirect_stdout(printed):
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    per_class = [values[values > -1].mean() if (values > -1).any() else None for values in precision.transpose(2, 0, 1)]
    return list(evaluation.stats), per_class, printed.getvalue()


def load(folder: Path, truth: dict) -> CocoAnnotations:
    path = folder / "truth.json"
    path.write_text(json.dumps(truth))
    return load_annotations(path, None)


def columns(folder: Path, results: list[dict], annotations: CocoAnnotations) -> Results:
    path = folder / "results.json"
    path.write_text(json.dumps(results))
    return load_results(path, annotations)


def written(evaluator: CocoEvaluator, folder: Path) -> list[dict]:
    save_results(evaluator.results(), evaluator.annotations, folder / "written.json")
    return json.loads((folder / "written.json").read_text())


def random_set(seed: int, scale: float = 200) -> tuple[dict, list[dict]]:
    """Crowds, empty images, gaps in the category ids, an annotation of id 0, ids beyond float32, tied scores."""
    rng = np.random.default_rng(seed)
    image_ids = [int(i) for i in 2**24 + rng.permutation(40) * 3 + 1] + [2**40 + 1]
    category_ids = [90, 1, 3, 17, 64]
    truth = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 800, "height": 800} for i in image_ids],
        "categories": [{"id": i, "name": f"thing {i}"} for i in category_ids],
        "annotations": [],
    }
    results = []
    for image_id in image_ids[:-4]:
        for _ in range(rng.integers(0, 12)):
            x, y, w, h = (rng.uniform(0, [500, 500, scale, scale]) + 1).round(2).tolist()
            entry = {"image_id": image_id, "category_id": int(rng.choice(category_ids[:4])), "bbox": [x, y, w, h]}
            number, crowd = len(truth["annotations"]), int(rng.random() < 0.1)
            truth["annotations"].append({**entry, "id": number, "area": round(w * h * 0.7, 2), "iscrowd": crowd})
            for _ in range(rng.integers(0, 4)):
                box = (np.array([x, y, w, h]) + rng.normal(0, 0.1, 4) * [w, h, w, h]).round(2)
                box[2:] = box[2:].clip(0.5)
                category = entry["category_id"] if rng.random() < 0.8 else int(rng.choice(category_ids))
                score = float(rng.integers(1, 10) / 10)
                results.append({**entry, "category_id": category, "bbox": box.tolist(), "score": score})
    for image_id in (image_ids[-1], image_ids[-2]):
        for score in (0.9, 0.2):
            results.append({"image_id": image_id, "category_id": 3, "bbox": [5, 5, 50, 50], "score": score})
    return truth, results


def added(annotations: CocoAnnotations, results: list[dict]) -> CocoEvaluator:
    evaluator = CocoEvaluator(annotations)
    for image_id in {entry["image_id"] for entry in results}:
        own = [entry for entry in results if entry["image_id"] == image_id]
        sides = np.array([entry["bbox"] for entry in own])
        boxes = np.concatenate([sides[:, :2], sides[:, :2] + sides[:, 2:]], axis=1)
        labels = [annotations.category_ids.index(entry["category_id"]) for entry in own]
        evaluator.add(image_id, boxes, [entry["score"] for entry in own], labels)
    return evaluator
