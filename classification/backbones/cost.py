"""What a divided classification network costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from classification.backbones import TIMM
from classification.backbones.registry import BackboneSpec, Dataset, find_backbone, find_dataset, member_specs
from classification.backbones.timm_models import output_shape
from divdet.engine.cost import Cost, count_cost
from divdet.engine.errors import UserError


def default_dataset(backbone: str) -> str:
    """The data set that a network's cost is stated for: cifar100 if it has that form, else imagenet."""
    small = not backbone.startswith(TIMM) and "cifar" in find_backbone(backbone).forms
    return "cifar100" if small else "imagenet"


def summarize(backbone: str, members: int, dataset: str, image_size: int | None = None) -> dict[str, Any]:
    """Cost of the whole ensemble on one image, counted without allocating weights.

    ``image_size`` is the side in pixels; None for the data set's (CIFAR 32, ImageNet 224).

    Returns:
        ``params``, ``params_per_member`` (a list where the members differ), ``gflops`` (the paper's convention),
        ``macs`` and ``torch_gflops`` (by torch's counter).

    Raises:
        UserError: as `create_members`, and for a size that the network does not take.
    """
    facts = find_dataset(dataset)
    specs = member_specs(backbone, members, facts.form)
    size = choose_image_size(image_size, facts)

    def count(index: int) -> Cost:
        with torch.device("meta"):
            member = specs[index].build(members, facts.form, facts.num_classes, dropout=0.0)
        if image_size or backbone.startswith(TIMM):
            output_shape(member, backbone, size)
        return count_cost(member, (1, 3, size, size))

    costs = member_costs(specs, count)
    totals = {name: sum(getattr(cost, name) for cost in costs) for name in ("gflops", "macs", "torch_gflops")}
    return {"params": sum(cost.params for cost in costs), "params_per_member": per_member(costs)} | totals


def choose_image_size(given: int | None, dataset: Dataset) -> int:
    """The given size or the data set's; raises UserError for one that no network takes."""
    size = dataset.image_size if given is None else given
    if not 1 <= size <= 10_000:  # keeps the sizes of tensors within 64 bits
        raise UserError(f"image_size must be 1 to 10000 pixels, not {size}")
    return size


def member_costs(specs: list[BackboneSpec], count: Callable[[int], Cost]) -> list[Cost]:
    """Each member's cost; ``count(index)`` is called once for equal members."""
    counted = {first: count(first) for first in dict.fromkeys(map(specs.index, specs))}
    return [counted[specs.index(spec)] for spec in specs]


def per_member(costs: list[Cost]) -> int | list[int]:
    """Parameters of a member, or of each where they differ."""
    params = [cost.params for cost in costs]
    return params[0] if len(set(params)) == 1 else params
