"""What a divided classification network costs."""

from __future__ import annotations

import torch

from classification.backbones import find_backbone, find_dataset
from classification.dividing import check_members
from engine.cost import count_cost


def summarise(backbone: str, members: int, dataset: str) -> dict[str, int | float]:
    """Cost of the whole ensemble on one image of the data set (32x32 for CIFAR, 224x224 for ImageNet): S times that of
    one member, as all have the same shapes.

    Returns ``params``, ``params_per_member``, ``gflops`` (the paper's convention) and ``macs``. No weight is allocated.
    Raises UserError as `create_members`.
    """
    check_members(members)
    facts = find_dataset(dataset)
    spec = find_backbone(backbone, facts.form)
    with torch.device("meta"):
        member = spec.build(members, facts.form, facts.num_classes, dropout=0.0)
    cost = count_cost(member, (1, 3, facts.image_size, facts.image_size))
    return {
        "params": members * cost.params,
        "params_per_member": cost.params,
        "gflops": members * cost.gflops,
        "macs": members * cost.macs,
    }
