"""Weights of the classes in the classification loss."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from detection.data.annotations import CocoAnnotations
from divdet.engine.errors import UserError
from divdet.engine.words import counted

LIMITS = (0.1, 10.0)  # of auto's weights: a class of one box in thousands would drown all others


def class_weights(
    annotations: CocoAnnotations, setting: Literal["auto"] | Sequence[float] | Mapping[str, float] | None
) -> Tensor | None:
    """Weights of background and classes ``[C + 1]``, background first, which has 1; None where all are 1.

    ``auto`` weights a class by N / (C · n): N boxes of C classes, n of them its own (scikit-learn's "balanced"), so the
    mean over the boxes is 1. Classes without a box have 1, and do not count in C.

    Raises:
        UserError: for a list of another length, or a name that no class has.
    """
    names = annotations.names
    if setting is None:
        return None
    if setting == "auto":
        labels = np.concatenate([record.labels[~record.crowd] for record in annotations.images])
        counts = np.bincount(labels, minlength=len(names))
        balanced = counts.sum() / ((counts > 0).sum() * np.maximum(counts, 1))
        weights = np.where(counts > 0, balanced.clip(*LIMITS), 1.0).tolist()
    elif isinstance(setting, Mapping):
        by_name = {str(name): weight for name, weight in setting.items()}  # YAML reads a name of digits as a number
        for name, given in zip(by_name, setting, strict=True):
            if name not in names:
                known = ", ".join(names[:10])
                known += "; quote yes, no, on and off, which YAML reads as truth values" * isinstance(given, bool)
                raise UserError(f"train.class_weights: {name!r} is no class of the data: {known}")
        weights = [by_name.get(name, 1.0) for name in names]
    else:
        if len(setting) != len(names):
            classes = f"{counted(len(names), 'class', 'classes')} ({', '.join(names[:10])}{', …' * (len(names) > 10)})"
            raise UserError(f"train.class_weights has {counted(len(setting), 'weight')}, but the data {classes}")
        weights = list(setting)
    shown = [f"{name} {weight:.3g}" for name, weight in zip(names, weights, strict=True)]
    print(f"train.class_weights: {', '.join(shown[:10])}{', …' if len(shown) > 10 else ''}")
    return torch.tensor([1.0, *weights])
