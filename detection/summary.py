"""What a detector with a divided backbone costs."""

import torch

from detection.ssd import create_ssd
from engine.cost import count_cost


def summarise(backbone: str, members: int, num_classes: int = 80) -> dict[str, int | float]:
    """Cost of SSD300 with S members on one 300 × 300 image, head outputs included, post-processing not.

    Returns ``params`` (members and shared layers), ``params_per_member`` (of one backbone member), ``params_shared``,
    ``gflops`` (the paper's convention) and ``macs``; each member runs the shared layers. No weight is allocated.

    Raises:
        UserError: as ``create_ssd``.
    """
    with torch.device("meta"):
        model = create_ssd(backbone, members, num_classes)
    cost = count_cost(model, (1, 3, 300, 300))
    member = sum(p.numel() for p in model.members[0].parameters())
    return {
        "params": cost.params,
        "params_per_member": member,
        "params_shared": cost.params - members * member,
        "gflops": cost.gflops,
        "macs": cost.macs,
    }
