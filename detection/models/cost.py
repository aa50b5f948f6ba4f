"""What a detector with a divided backbone costs."""

from typing import Any

import torch

from classification.backbones.cost import member_costs, per_member
from classification.backbones.registry import member_specs
from detection.models.head import create_detector
from divdet.engine.cost import count_cost
from divdet.engine.errors import UserError


def foreground_classes(dataset: str | None) -> int:
    """Returns the number of classes that ``--dataset`` means for a detector: 80 for coco and None, or the number."""
    if dataset in (None, "coco"):
        return 80
    if dataset.isascii() and dataset.isdigit() and int(dataset):
        return int(dataset)
    raise UserError(f"--dataset {dataset}: give coco or the number of foreground classes")


def summarize(
    backbone: str, members: int, num_classes: int = 80, head: str = "ssd300", input_size: int | None = None
) -> dict[str, Any]:
    """Counts the cost of a detector with S members on one image, without post-processing. Allocates no weights.

    ``input_size`` is the side in pixels; None for the head's own.

    Returns:
        ``params``, of which ``params_per_member`` (one backbone; a list if the members differ), ``params_shared``
        (extra layers, heads, adapters) and, if there are any, ``params_adapters``; ``gflops`` (the paper's convention),
        of which ``gflops_members`` (all backbones) and ``gflops_shared`` (each member runs the shared layers);
        ``macs``; ``torch_gflops`` (by torch's counter).
    """
    with torch.device("meta"):
        model = create_detector(head, backbone, members, num_classes, input_size)
    shape = (1, 3, model.input.size, model.input.size)
    whole = count_cost(model, shape)
    specs = member_specs(backbone, members, None)
    costs = member_costs(specs, lambda index: count_cost(model.members[index], shape))
    in_members = sum(cost.gflops for cost in costs)
    found = {
        "params": whole.params,
        "params_per_member": per_member(costs),
        "params_shared": whole.params - sum(cost.params for cost in costs),
        "gflops": whole.gflops,
        "gflops_members": in_members,
        "gflops_shared": whole.gflops - in_members,
        "macs": whole.macs,
        "torch_gflops": whole.torch_gflops,
    }
    if model.adapters is not None:
        found["params_adapters"] = sum(p.numel() for p in model.adapters.parameters())
    return found
