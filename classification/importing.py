"""The paper's published classifiers as checkpoints of this toolkit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from classification.backbones.registry import find_dataset
from classification.data.class_names import CIFAR10, CIFAR100, SVHN, imagenet_classes
from classification.data.views import network_inputs
from classification.ensemble import create_ensemble
from classification.released import is_unused, own_names
from classification.settings import DataSettings, ModelSettings, TrainClassification
from divdet.engine import checkpoint
from divdet.engine.cli import to_dict
from divdet.engine.errors import UserError

# Image sizes in pixels of the published ImageNet networks that do not take 224
_IMAGE_SIZES = {"efficientnet_b7": 320, "se_resnext101_64x4d": 416, "se_resnext101_64x4d_B": 320}


def read_published(path: str | Path) -> dict[str, Tensor]:
    """Reads a published file's weights: its ``state_dict`` or ``model``, or all of it, without ``module.`` in names."""
    weights = checkpoint.read(path)
    for key in ("state_dict", "model"):
        if isinstance(weights, dict) and isinstance(weights.get(key), dict):
            weights = weights[key]
    named = isinstance(weights, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items())
    if not named or not weights:
        raise UserError(f"{path}: holds no weights by name, neither under 'state_dict' nor by itself")
    return rename(weights, lambda name: name.removeprefix("module."), path)


def rename(weights: dict[str, Tensor], new_name: Callable[[str], str], source: str | Path) -> dict[str, Tensor]:
    """Renames weights; raises UserError where two would get the same name, so that none is lost."""
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        key = new_name(name)
        if key in renamed:
            raise UserError(f"{source}: {name} stands there twice, under two names")
        renamed[key] = value
    return renamed


def import_classifier(source: str, backbone: str, members: int, dataset: str) -> checkpoint.Checkpoint:
    """Converts a published classifier of ``dataset`` into a checkpoint that `load_ensemble` reads.

    Raises:
        UserError: for an unreadable file, an unknown name or impossible division, and weights that are missing, left
            over or of another shape.
    """
    facts = find_dataset(dataset)
    with torch.device("meta"):
        own = create_ensemble(backbone, members, facts.num_classes, dataset).state_dict()
    weights, unused = {}, 0
    for number, found in enumerate(_split_members(read_published(source), members, source)):
        prefix = f"members.{number}."
        names = own_names(backbone, found, [key.removeprefix(prefix) for key in own if key.startswith(prefix)])
        for name, value in rename(found, names.__getitem__, source).items():
            if is_unused(backbone, name):
                unused += value.numel()
            else:
                weights[prefix + name] = value
    checkpoint.check_weights(own, weights, source)
    if unused:
        print(f"{source}: {unused / 1e6:.2f} M weights of shortcuts that the network never uses are left out")
    weights = {key: weights[key].to(value.dtype) for key, value in own.items()}

    data = DataSettings(dataset=dataset)
    inputs = network_inputs(data, published_image_size(backbone, dataset))
    config = TrainClassification(ModelSettings(backbone, members, stem=facts.form), replace(data, **inputs))
    classes = {"cifar10": CIFAR10, "cifar100": CIFAR100, "svhn": SVHN}.get(dataset) or imagenet_classes()
    meta = {"classes": classes, "stem": facts.form} | inputs
    return checkpoint.Checkpoint("classification", weights, to_dict(config), meta)


def published_image_size(backbone: str, dataset: str) -> int:
    """Side in pixels of the images that a published network is evaluated on."""
    size = find_dataset(dataset).image_size
    return _IMAGE_SIZES.get(backbone, size) if dataset == "imagenet" else size


def _split_members(weights: dict[str, Tensor], members: int, source: str) -> list[dict[str, Tensor]]:
    """Each member's weights, by the names inside it. Those of a single network may lack the prefix ``models.0.``."""
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
