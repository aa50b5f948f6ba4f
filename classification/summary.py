"""What a divided classification network costs."""

from __future__ import annotations

import torch

from classification.backbones import create_members, find_dataset
from engine.cost import count_cost


def summarise(backbone: str, members: int, dataset: str) -> dict[str, int | float]:
    """Cost of the whole ensemble on one image of the data set (32x32 for CIFAR, 224x224 for ImageNet): S times that of
    one member, as all have the same shapes.

    Returns ``params``, ``params_per_member``, ``gflops`` (the paper's convention) and ``macs``. No weight is allocated.
    Raises UserError as `create_members`.
    """
    facts = find_dataset(dataset)
    with torch.device("meta"):
        member = create_members(backbone, members, facts.num_classes, dataset)[0]
    cost = count_cost(member, (1, 3, facts.image_size, facts.image_size))
    return {
        "params": members * cost.params,
        "params_per_member": cost.params,
        "gflops": members * cost.gflops,
        "macs": members * cost.macs,
    }
