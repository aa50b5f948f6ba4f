"""Evaluation of some classes of many: ground truth and results without the others."""

from dataclasses import fields, replace
from typing import TypeVar

import numpy as np

from detection.class_rules import ClassRules
from detection.data.annotations import CocoAnnotations, Columns
from detection.data.coco_results import Results

Table = TypeVar("Table", Columns, Results)


def choose_truth(annotations: CocoAnnotations, rules: ClassRules) -> CocoAnnotations:
    """The same images, with the objects of classes that are kept: the other classes have no ground truth then.

    ``rules`` are of the annotations' labels, which ``match_categories`` makes a detector's.
    """
    if rules.kept is None:
        return annotations
    kept = rules.kept.numpy()
    images = []
    for record in annotations.images:
        rows = kept[record.labels]
        columns = {"boxes": record.boxes[rows], "labels": record.labels[rows], "crowd": record.crowd[rows]}
        images.append(replace(record, **columns))
    return replace(annotations, images=images, truth=_rows(annotations.truth, kept[annotations.truth.label]))


def choose_results(results: Results, rules: ClassRules) -> Results:
    """The detections of classes that are kept whose scores reach their class's threshold."""
    rows = np.ones(len(results), bool)
    if rules.kept is not None:
        rows &= rules.kept.numpy()[results.label]
    if rules.thresholds is not None:
        rows &= results.score >= rules.thresholds.numpy()[results.label]
    return results if rows.all() else _rows(results, rows)


def _rows(table: Table, rows: np.ndarray) -> Table:
    return replace(table, **{field.name: getattr(table, field.name)[rows] for field in fields(table)})
