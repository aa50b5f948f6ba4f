"""The summary command: the cost of a classifier or a detector as a table or JSON."""

import json
from typing import Any

from classification.backbones.cost import default_dataset
from classification.backbones.cost import summarize as summarize_classifier
from classification.backbones.registry import BACKBONES
from detection.heads import input_of, title_of
from detection.models.cost import foreground_classes
from detection.models.cost import summarize as summarize_detector
from divdet.commands.network_settings import Summary
from divdet.engine.errors import UserError
from divdet.engine.words import counted

DIVISIONS = (1, 2, 4, 8)  # the paper's S, and one more


def print_summary(config: Summary) -> None:
    """Prints the cost; parameters and MACs are exact.

    Raises:
        UserError: for an unknown name, an S that the backbone cannot be divided into, or a bad image size.
    """
    if not config.backbone:
        raise UserError(f"--backbone is missing: one of {', '.join(BACKBONES)}")
    if config.task == "det":
        input_of(config.head, config.image_size, "--image_size")
        num_classes = foreground_classes(config.dataset)
        dataset = counted(num_classes, "class", "classes")
    else:
        dataset = config.dataset or default_dataset(config.backbone)

    def cost(members: int) -> dict[str, Any]:
        if config.task == "det":
            return summarize_detector(config.backbone, members, num_classes, config.head, config.image_size)
        return summarize_classifier(config.backbone, members, dataset, config.image_size)

    listed = config.backbone.count(",") + 1  # timm's models, one for each member
    divisions = (config.members,) if config.members is not None else DIVISIONS if listed == 1 else (listed,)
    costs, refused = [], []
    for members in divisions:
        try:
            costs.append({"members": members} | cost(members))
        except UserError as error:
            if config.members or not costs:  # if S=1 fails, the reason is not the division
                raise
            refused.append({"members": members, "reason": str(error)})
    if config.json:
        found = costs[0] if config.members else {"divisions": costs, "refused": refused}
        task = {"task": config.task} | ({"head": config.head} if config.task == "det" else {})
        print(json.dumps(task | {"backbone": config.backbone} | found))
        return
    if config.task == "det":
        print(f"{title_of(config.head, config.image_size)}, {config.backbone} on {dataset}")
    else:
        size = "" if config.image_size is None else f" at {config.image_size} pixels"
        print(f"{config.backbone} on {dataset}{size}")
    for name in costs[0]:
        print(f"  {name:<18}" + "".join(f" {_format(name, cost[name]):>16}" for cost in costs))
    for division in refused:
        print(f"  members {division['members']}: {division['reason']}")


def _format(name: str, value: float | list[int]) -> str:
    if "gflops" in name:
        return f"{value:.3f} G"
    if isinstance(value, list):
        return " + ".join(f"{part:,}" for part in value)
    return f"{value / 1e9:.3f} G" if name == "macs" else f"{value:,}"
