"""Evaluation of some classes of many: ground truth and results without the others."""

from collections.abc import Collection
from dataclasses import fields, replace
from typing import TypeVar

import numpy as np

from detection.boxes import ClassRules
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


def keep_categories(annotations: CocoAnnotations, names: Collection[str]) -> CocoAnnotations:
    """The same images, with the categories of these names alone and their objects."""
    labels = [label for label, name in enumerate(annotations.names) if name in names]
    new = np.full(len(annotations.names), -1)
    new[labels] = np.arange(len(labels))
    images = []
    for record in annotations.images:
        rows = new[record.labels] >= 0
        columns = {"boxes": record.boxes[rows], "labels": new[record.labels[rows]], "crowd": record.crowd[rows]}
        images.append(replace(record, **columns))
    truth = _rows(annotations.truth, new[annotations.truth.label] >= 0)
    return replace(
        annotations,
        images=images,
        names=[annotations.names[label] for label in labels],
        category_ids=[annotations.category_ids[label] for label in labels],
        truth=replace(truth, label=new[truth.label]),
    )


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
