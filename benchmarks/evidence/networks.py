"""The networks of the rows: what a checkpoint holds, as a few plain facts, and the same network anew with other S."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from classification.backbones.resnet import DETECTION_INPUT
from classification.ensemble import create_ensemble
from classification.evaluation import FORM_DATASETS
from detection.models.ssd import create_ssd
from divdet.engine.cost import count_cost


@dataclass(frozen=True)
class Network:
    """A network before dividing.

    Attributes:
        task: cls or det.
        backbone: its name.
        classes: foreground classes.
        image_size: pixels a side.
        stem: cifar or imagenet.
    """

    task: str
    backbone: str
    classes: int
    image_size: int
    stem: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an input, [3, H, W]."""
        return 3, self.image_size, self.image_size

    def create(self, members: int) -> nn.Module:
        """The network divided into ``members``, with random weights."""
        if self.task == "det":
            return create_ssd(self.backbone, members, self.classes)
        return create_ensemble(self.backbone, members, self.classes, FORM_DATASETS[self.stem])

    def cost(self, members: int) -> dict[str, Any]:
        """Parameters (``own_params``: without shared layers) and operations of an image, and its facts."""
        with torch.device("meta"):
            network = self.create(members)
        counted = count_cost(network, (1, *self.shape))
        own = sum(parameter.numel() for parameter in network.members.parameters())
        return asdict(self) | {
            "params": counted.params,
            "own_params": own,
            "gflops": counted.gflops,
            "macs": counted.macs,
        }


def of_checkpoint(path: Path, task: str) -> Network:
    """What train_cls.py or train_det.py wrote."""
    saved = torch.load(path, weights_only=True, map_location="cpu")
    backbone, meta = saved["config"]["model"]["backbone"], saved["meta"]
    if task == "det":
        return Network(task, backbone, len(meta["categories"]), DETECTION_INPUT, "imagenet")
    return Network(task, backbone, len(meta["classes"]), meta["image_size"], meta["stem"])
