"""What a divided classification network costs."""

from __future__ import annotations

import torch

from classification.backbones import find_dataset
from classification.ensemble import create_ensemble
from engine.cost import count_cost


def summarise(backbone: str, members: int, dataset: str) -> dict[str, int | float]:
    """Cost of the whole ensemble on one image of the data set (32x32 for CIFAR, 224x224 for ImageNet).

    Returns ``params``, ``params_per_member``, ``gflops`` (the paper's convention) and ``macs``. No weight is allocated.
    Raises UserError as `create_ensemble`.
    """
    facts = find_dataset(dataset)
    with torch.device("meta"):
        ensemble = create_ensemble(backbone, members, facts.num_classes, dataset)
    cost = count_cost(ensemble, (1, 3, facts.image_size, facts.image_size))
    return {
        "params": cost.params,
        "params_per_member": sum(p.numel() for p in ensemble.members[0].parameters()),
        "gflops": cost.gflops,
        "macs": cost.macs,
    }
