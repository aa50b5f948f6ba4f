"""The paper's published classifiers as checkpoints of this toolkit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from classification.backbones.registry import create_members, find_dataset
from classification.data.class_names import CIFAR10, CIFAR100, IMAGENET, SVHN
from classification.data.views import network_inputs
from classification.released import is_unused, own_names
from classification.settings import DataSettings, ModelSettings, TrainClassification
from divdet.engine import checkpoint
from divdet.engine.cli import to_dict
from divdet.engine.errors import UserError

_CLASSES = {"cifar10": CIFAR10, "cifar100": CIFAR100, "svhn": SVHN, "imagenet": IMAGENET}
# Image sizes in pixels of the published ImageNet networks that do not take 224.
_IMAGE_SIZES = {"efficientnet_b7": 320, "se_resnext101_64x4d": 416, "se_resnext101_64x4d_B": 320}


def read_published(path: str | Path) -> dict[str, Tensor]:
    """The weights of a published file: its ``state_dict`` or ``model``, or the file itself; ``module.`` taken off.

    Raises:
        UserError: where the file is unreadable or holds no weights by name.
    """
    found = checkpoint.read(path)
    weights = found if isinstance(found, dict) else {}
    for key in ("state_dict", "model"):
        if isinstance(weights.get(key), dict):
            weights = weights[key]
    if not weights or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()):
        raise UserError(f"{path}: holds no weights by name, neither under 'state_dict' nor by itself")
    return rename(weights, lambda name: name.removeprefix("module."), path)


def rename(weights: dict[str, Tensor], new_name: Callable[[str], str], source: str | Path) -> dict[str, Tensor]:
    """The weights by their new names; raises UserError where two would get the same, so that none is lost."""
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        key = new_name(name)
        if key in renamed:
            raise UserError(f"{source}: {name} stands there twice, under two names")
        renamed[key] = value
    return renamed


def import_classifier(source: str, backbone: str, members: int, dataset: str) -> checkpoint.Checkpoint:
    """A published classifier as a checkpoint that `load_ensemble` reads.

    Args:
        source: the published file.
        backbone: name of the network before dividing.
        members: S.
        dataset: cifar10, cifar100, svhn or imagenet: what it was trained on.

    Raises:
        UserError: for an unreadable file, a name or division that does not exist, or weights of which any is missing,
            left over or of another shape.
    """
    facts = find_dataset(dataset)
    with torch.device("meta"):
        own = create_members(backbone, members, facts.num_classes, dataset).state_dict()
    published = _by_member(read_published(source), members, source)
    weights, unused = {}, 0
    for number, found in enumerate(published):
        names = own_names(backbone, found, [key.split(".", 1)[1] for key in own if key.startswith(f"{number}.")])
        member = rename(found, names.__getitem__, source)
        unused += sum(value.numel() for name, value in member.items() if is_unused(backbone, name))
        kept = {name: value for name, value in member.items() if not is_unused(backbone, name)}
        weights |= {f"members.{number}.{name}": value for name, value in kept.items()}
    own = {f"members.{key}": value for key, value in own.items()}
    checkpoint.check_weights(own, weights, source)
    if unused:
        print(f"{source}: {unused / 1e6:.2f} M weights of shortcuts that the network never uses are left out")
    weights = {key: weights[key].to(value.dtype) for key, value in own.items()}

    data = DataSettings(dataset=dataset)
    inputs = network_inputs(data, published_image_size(backbone, dataset))
    config = TrainClassification(ModelSettings(backbone, members, stem=facts.form), replace(data, **inputs))
    meta = {"classes": _CLASSES[dataset], "stem": facts.form} | inputs
    return checkpoint.Checkpoint("classification", weights, to_dict(config), meta)


def published_image_size(backbone: str, dataset: str) -> int:
    """Image size in pixels that a published network is evaluated at."""
    size = find_dataset(dataset).image_size
    return _IMAGE_SIZES.get(backbone, size) if dataset == "imagenet" else size


def _by_member(weights: dict[str, Tensor], members: int, source: str) -> list[dict[str, Tensor]]:
    """The weights of each member, by the names inside it; a single network's may stand without a number."""
    if members == 1 and not any(name.startswith("models.") for name in weights):
        return [weights]
    found: list[dict[str, Tensor]] = [{} for _ in range(members)]
    for name, value in weights.items():
        match = re.match(r"models\.(\d+)\.", name)
        if not match:
            raise UserError(f"{source}: {name} belongs to no member: their weights stand under models.0., models.1., …")
        if int(match[1]) >= members:
            raise UserError(f"{source}: holds a member {int(match[1]) + 1} where --members is {members}")
        found[int(match[1])][name[match.end() :]] = value
    return found
