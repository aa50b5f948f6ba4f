"""The summary command: the cost of a classifier or a detector as a table or JSON."""

import json
from typing import Any

from classification.backbones.cost import summarize as summarise_classifier
from classification.backbones.registry import BACKBONES, default_dataset
from detection.models.cost import check_no_image_size
from detection.models.cost import summarise as summarise_detector
from divdet.commands.settings import Summary
from divdet.engine.errors import UserError

# The paper's S, and one beyond
DIVISIONS = (1, 2, 4, 8)


def print_summary(config: Summary) -> None:
    """Prints the cost; numbers are exact for parameters and MACs.

    Raises:
        UserError: for an unknown name, a division that the backbone's rule does not allow, or a bad image size.
    """
    if not config.backbone:
        raise UserError(f"--backbone is missing: one of {', '.join(BACKBONES)}")
    if config.task == "det":
        check_no_image_size(config.image_size)
    title, costs, refused = f"{config.backbone} on {_dataset(config)}", [], []
    if config.image_size is not None:
        title += f" at {config.image_size} pixels"
    listed = len(config.backbone.split(","))
    divisions = DIVISIONS if listed == 1 else (listed,)
    for members in divisions if config.members is None else (config.members,):
        try:
            costs.append({"members": members} | _cost(config, members))
        except UserError as error:
            if config.members or not costs:  # what stands in the way of S=1 is no matter of dividing
                raise
            refused.append({"members": members, "reason": str(error)})
    head = {"task": config.task, "backbone": config.backbone}
    if config.json:
        print(json.dumps(head | (costs[0] if config.members else {"divisions": costs, "refused": refused})))
        return
    print(f"SSD300, {title}" if config.task == "det" else title)
    for name in costs[0]:
        print(f"  {name:<18}" + "".join(f" {_show(name, cost[name]):>16}" for cost in costs))
    for division in refused:
        print(f"  members {division['members']}: {division['reason']}")


def _cost(config: Summary, members: int) -> dict[str, Any]:
    if config.task == "cls":
        return summarise_classifier(config.backbone, members, _dataset(config), config.image_size)
    return summarise_detector(config.backbone, members, _classes(config.dataset))


def _show(name: str, value: float | list[int]) -> str:
    if "gflops" in name:
        return f"{value:.3f} G"
    if isinstance(value, list):
        return " + ".join(f"{part:,}" for part in value)
    return f"{value / 1e9:.3f} G" if name == "macs" else f"{value:,}"


def _dataset(config: Summary) -> str:
    if config.task == "det":
        return f"{_classes(config.dataset)} classes"
    return config.dataset or default_dataset(config.backbone)


def _classes(dataset: str | None) -> int:
    if dataset in (None, "coco"):
        return 80
    if dataset.isascii() and dataset.isdigit() and int(dataset):
        return int(dataset)
    raise UserError(f"--dataset {dataset}: give coco or the number of foreground classes")
