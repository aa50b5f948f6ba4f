"""Weights by frequency, list and name, and what they do to the loss."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from detection.data.annotations import CocoAnnotations, Columns, ImageRecord
from detection.models.multibox_loss import multibox_loss
from detection.settings import DetectionTrainSettings
from detection.training.class_weights import class_weights
from divdet.engine.errors import UserError


def annotations(labels: list[int], names: str = "abcd") -> CocoAnnotations:
    many = len(labels)
    record = ImageRecord(1, "1.png", Path("1.png"), 9, 9, np.zeros((many, 4)), np.array(labels), np.zeros(many, bool))
    none = Columns(*[np.zeros(0)] * 5)
    return CocoAnnotations(Path("a.json"), [record], list(range(len(names))), list(names), Counter(), none)


def test_auto_is_balanced_over_the_classes_that_occur() -> None:
    """scikit-learn's "balanced": n / (classes · count); d does not occur."""
    found = class_weights(annotations([0] * 6 + [1] * 3 + [2]), "auto")
    torch.testing.assert_close(found, torch.tensor([1, 10 / 18, 10 / 9, 10 / 3, 1]))
    rare = class_weights(annotations([0] * 999 + [1]), "auto")
    torch.testing.assert_close(rare, torch.tensor([1, 1000 / 1998, 10, 1, 1]))  # 500, were it not limited


def test_weights_by_name_and_in_order() -> None:
    data = annotations([0, 1])
    assert class_weights(data, {"b": 3.0, "a": 0.5}).tolist() == [1, 0.5, 3, 1, 1]
    assert class_weights(data, [1, 2, 3, 4]).tolist() == [1, 1, 2, 3, 4]
    assert class_weights(data, None) is None
    assert class_weights(annotations([0, 1], "012"), {1: 3.0, "2": 0.5}).tolist() == [1, 1, 3, 0.5]
    with pytest.raises(UserError, match="'True' is no class of the data: a, b, c, d; quote yes"):
        class_weights(data, {True: 1.0})
    with pytest.raises(UserError, match=r"'x' is no class of the data: a, b, c, d$"):
        class_weights(data, {"x": 1.0})
    with pytest.raises(UserError, match=r"has 2 weights, but the data 4 classes \(a, b, c, d\)"):
        class_weights(data, [1, 2])
    with pytest.raises(UserError, match=r"a weight is -1"):
        DetectionTrainSettings(class_weights={"a": -1.0})


def test_the_cross_entropy_is_weighted_by_true_class_alone() -> None:
    """By hand: the positives' terms by their weights, the mined negatives' by the background's 1."""
    generator = torch.Generator().manual_seed(0)
    deltas, logits = torch.randn(2, 1, 50, 4, generator=generator), torch.randn(2, 1, 50, 4, generator=generator)
    classes = torch.zeros(1, 50, dtype=torch.int64)
    classes[0, :3] = torch.tensor([1, 3, 3])
    plain = multibox_loss(deltas, logits, torch.zeros(1, 50, 4), classes)
    weights = torch.tensor([1, 2.0, 1, 0.5])
    found = multibox_loss(deltas, logits, torch.zeros(1, 50, 4), classes, class_weights=weights)
    entropy = torch.nn.functional.cross_entropy(
        logits[:, 0, :3].flatten(0, 1), classes[0, :3].repeat(2), reduction="none"
    )
    change = (entropy * (weights[classes[0, :3]].repeat(2) - 1)).sum() / 3
    torch.testing.assert_close(found["classification"], plain["classification"] + change)
    torch.testing.assert_close(found["localization"], plain["localization"])
