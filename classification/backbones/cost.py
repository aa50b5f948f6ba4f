"""What a divided classification network costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from classification.backbones.registry import BackboneSpec, Dataset, find_dataset, member_specs
from classification.backbones.timm_models import PREFIX, output_shape
from divdet.engine.cost import Cost, count_cost
from divdet.engine.errors import UserError

MAX_IMAGE_SIZE = 10_000  # a side far beyond any classifier's: sizes of tensors stay within 64 bits


def summarise(backbone: str, members: int, dataset: str, image_size: int | None = None) -> dict[str, Any]:
    """Cost of the whole ensemble on one image, of the data set's side (CIFAR 32, ImageNet 224) where none is given.

    Returns ``params``, ``params_per_member`` (a list where the members differ), ``gflops`` (the paper's convention),
    ``macs`` and ``torch_gflops`` (by torch's counter). No weight is allocated. Raises UserError as `create_members`,
    and for a size that the network does not take.
    """
    facts = find_dataset(dataset)
    specs = member_specs(backbone, members, facts.form)
    size = choose_image_size(image_size, facts)

    def count(index: int) -> Cost:
        with torch.device("meta"):
            member = specs[index].build(members, facts.form, facts.num_classes, dropout=0.0)
        if image_size or backbone.startswith(PREFIX):
            output_shape(member, backbone, size)
        return count_cost(member, (1, 3, size, size))

    costs = member_costs(specs, count)
    return {
        "params": sum(cost.params for cost in costs),
        "params_per_member": per_member(costs),
        "gflops": sum(cost.gflops for cost in costs),
        "macs": sum(cost.macs for cost in costs),
        "torch_gflops": sum(cost.torch_gflops for cost in costs),
    }


def choose_image_size(given: int | None, dataset: Dataset) -> int:
    """The size that is given, or the data set's. Raises UserError for one that no network takes."""
    size = dataset.image_size if given is None else given
    if not 1 <= size <= MAX_IMAGE_SIZE:
        raise UserError(f"image_size must be 1 to {MAX_IMAGE_SIZE} pixels, not {size}")
    return size


def member_costs(specs: list[BackboneSpec], count: Callable[[int], Cost]) -> list[Cost]:
    """The cost of each member; ``count`` gives that of a member's index, and is asked once for equal members."""
    costs: list[Cost] = []
    for index, spec in enumerate(specs):
        first = specs.index(spec)
        costs.append(costs[first] if first < index else count(index))
    return costs


def per_member(costs: list[Cost]) -> int | list[int]:
    """Parameters of a member, or of each where they differ."""
    params = [cost.params for cost in costs]
    return params[0] if len(set(params)) == 1 else params
