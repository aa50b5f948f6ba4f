"""What ``model.divide_from`` gives each member: a slice of a trained, undivided network."""

from __future__ import annotations

import torch
from torch import Tensor

from classification.backbones import TIMM
from classification.backbones.registry import create_members
from classification.backbones.slicing import slices
from classification.evaluation import FORM_DATASETS, load_ensemble
from divdet.engine.checkpoint import Checkpoint
from divdet.engine.errors import UserError


def divided_weights(path: str, backbone: str, members: int, seed: int) -> tuple[Checkpoint, list[dict[str, Tensor]]]:
    """The checkpoint of an undivided classifier, and weights for each of the S classifiers it is divided into.

    Raises:
        UserError: for a file that is not such a checkpoint, one of another backbone or of several members, and networks
            that cannot be sliced.
    """
    if backbone.startswith(TIMM):
        raise UserError(
            f"model.divide_from: members of {backbone} are undivided, so give its weights as model.pretrained"
        )
    source, saved = load_ensemble(path)
    for key, own in (("backbone", backbone), ("members", 1)):
        if (trained := saved.setting(f"model.{key}", type(own))) != own:
            raise UserError(f"{path}: was trained with model.{key} = {trained}; model.divide_from needs {own}")
    classes, form = len(saved.meta["classes"]), FORM_DATASETS[saved.meta["stem"]]
    with torch.device("meta"):  # for their shapes
        narrow = create_members(backbone, members, classes, form)
    return saved, slices(source.members[0], narrow, saved.meta["image_size"], seed, f"{path} ({backbone})")
