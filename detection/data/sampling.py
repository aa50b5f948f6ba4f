"""Which training images an epoch has: a part of them, rare classes more often."""

import numpy as np

from detection.data.annotations import CocoAnnotations, part_of
from divdet.engine.errors import UserError
from divdet.engine.sampling import derived_seed
from divdet.engine.words import counted


def take_fraction(annotations: CocoAnnotations, fraction: float, seed: int) -> CocoAnnotations:
    """A random part of the images, in their order; a smaller part of the same seed lies within a larger one.

    Raises:
        UserError: where no image of the part has an object.
    """
    total = len(annotations.images)
    if fraction == 1:
        return annotations
    order = np.random.default_rng(derived_seed(seed, "fraction")).permutation(total)
    kept = np.zeros(total, bool)
    kept[order[: max(round(fraction * total), 1)]] = True
    part = part_of(annotations, kept)
    print(f"train.fraction {fraction:g}: training on {len(part.images)} of the {total} images")
    if all(record.crowd.all() for record in part.images):
        raise UserError(
            f"train.fraction {fraction:g}: the part of {counted(len(part.images), 'image')} has no object; raise it"
        )
    return part


def repeat_factors(annotations: CocoAnnotations, threshold: float) -> np.ndarray | None:
    """How often each image occurs in an epoch [images], so that rare classes are seen more often; None for once each.

    Repeat factor sampling (Gupta et al. 2019, "LVIS", Sec. 4; mmdetection's ClassBalancedDataset): a class that a share
    f of the images has gets max(1, √(threshold / f)), an image the largest of its classes'.
    """
    if not threshold:
        return None
    present = [np.unique(record.labels[~record.crowd]) for record in annotations.images]
    share = np.bincount(np.concatenate(present), minlength=len(annotations.names)) / len(present)
    factors = np.maximum(1, np.sqrt(threshold / np.maximum(share, 1e-12)))
    repeats = np.array([factors[labels].max(initial=1) for labels in present])
    order = [label for label in np.argsort(-factors, kind="stable") if share[label] > 0 and factors[label] > 1]
    raised = ", ".join(f"{annotations.names[label]} {factors[label]:.2g}" for label in order[:5])
    what = f"factors {raised}{', …' * (len(order) > 5)}" if order else "no class is that rare"
    print(f"data.class_balanced {threshold:g}: {round(repeats.sum())} images an epoch; {what}")
    return repeats
