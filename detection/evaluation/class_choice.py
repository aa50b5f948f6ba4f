"""Evaluation of some classes of many: ground truth and results without the others."""

from collections.abc import Collection
from dataclasses import replace
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
    return _relabelled(annotations, np.where(rules.kept.numpy(), np.arange(len(annotations.names)), -1))


def keep_categories(annotations: CocoAnnotations, names: Collection[str]) -> CocoAnnotations:
    """The same images, with the categories of these names alone and their objects."""
    labels = [label for label, name in enumerate(annotations.names) if name in names]
    new = np.full(len(annotations.names), -1)
    new[labels] = np.arange(len(labels))
    names, ids = ([values[label] for label in labels] for values in (annotations.names, annotations.category_ids))
    return replace(_relabelled(annotations, new), names=names, category_ids=ids)


def choose_results(results: Results, rules: ClassRules) -> Results:
    """The detections of classes that are kept whose scores reach their class's threshold."""
    rows = np.ones(len(results), bool)
    if rules.kept is not None:
        rows &= rules.kept.numpy()[results.label]
    if rules.thresholds is not None:
        rows &= results.score >= rules.thresholds.numpy()[results.label]
    return results if rows.all() else _rows(results, rows)


def _relabelled(annotations: CocoAnnotations, new: np.ndarray) -> CocoAnnotations:
    """The same images, with the objects whose label has a ``new`` one, int64 [C]; -1 drops them."""
    images = []
    for record in annotations.images:
        rows = new[record.labels] >= 0
        columns = {"boxes": record.boxes[rows], "labels": new[record.labels[rows]], "crowd": record.crowd[rows]}
        images.append(replace(record, **columns))
    truth = _rows(annotations.truth, new[annotations.truth.label] >= 0)
    return replace(annotations, images=images, truth=replace(truth, label=new[truth.label]))


def _rows(table: Table, rows: np.ndarray) -> Table:
    return replace(table, **{name: column[rows] for name, column in vars(table).items()})
