"""What a detector starts from: a checkpoint of this toolkit, or plain weights of its members."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from classification.dividing import divided_weights
from classification.foreign_weights import foreign_weights, is_own, read_weights
from detection.category_names import category_name
from detection.models.coco_classes import COCO
from detection.models.head import DividedDetector
from divdet.engine import checkpoint
from divdet.engine.class_rows import match_classes, take_rows
from divdet.engine.errors import UserError


def load_pretrained(
    model: DividedDetector, pretrained: str, backbone: str, names: Sequence[str], different_views: bool = False
) -> None:
    """Loads the weights that ``model.pretrained`` names into ``model``, whose classes are ``names``.

    From a classifier's checkpoint everything but the last stage and the classifier is loaded, member by member. From a
    detector's everything is loaded, the class heads by class name: classes that it does not have keep their fresh
    weights. From a detector that others published likewise, if the head knows its names. From plain files (or ``pip``)
    of timm's models everything but the layers that detectors lack.

    Raises:
        UserError: for another head, backbone or number of members, any missing or mismatched weight, or members that
            start alike from plain files and do not see ``different_views``.
    """
    if published := _published(model, pretrained):
        coco = [category["name"] for category in COCO]
        checkpoint.load_weights(model, _with_own_classes(model, published, pretrained, coco, names), pretrained)
        return
    found = foreign_weights(pretrained, backbone, len(model.members), different_views)
    if found is None:
        _load_checkpoint(model, pretrained, backbone, names)
        return
    for member, (source, weights) in zip(model.members, found, strict=True):
        checkpoint.load_weights(member, member.from_classifier(weights), source)


def load_slices(model: DividedDetector, path: str, backbone: str, seed: int) -> None:
    """Loads slices of a trained undivided classifier into the backbones (``model.divide_from``)."""
    trained, found = divided_weights(path, backbone, len(model.members), seed)
    if trained.stem == "cifar":
        raise UserError(f"{path}: was trained with model.stem = cifar; detectors need imagenet")
    for number, (member, weights) in enumerate(zip(model.members, found, strict=True), 1):
        checkpoint.load_weights(member, member.from_classifier(weights), f"{path} (member {number})")


def _published(model: DividedDetector, pretrained: str) -> dict[str, Tensor] | None:
    """The weights of a file of this detector that others published; None where it is something else."""
    path = Path(pretrained)
    if type(model).published_weights is DividedDetector.published_weights or not path.is_file() or is_own(path):
        return None
    return model.published_weights(read_weights(path), pretrained)


def _load_checkpoint(model: DividedDetector, path: str, backbone: str, names: Sequence[str]) -> None:
    saved = checkpoint.load(path)
    for key, own in (("backbone", backbone), ("members", len(model.members))):
        trained = saved.setting(f"model.{key}", type(own))
        if trained != own:
            raise UserError(f"{path}: was trained with model.{key} = {trained}, not {own}; set model.{key} to match")
    if saved.kind == "detection":
        if (head := saved.config["model"].get("head", "ssd300")) != model.head:
            raise UserError(f"{path}: was trained with model.head = {head}, not {model.head}; set model.head to match")
        try:
            there = [str(category["name"]) for category in saved.meta["categories"]]
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: does not say its categories ({error!r}); use another checkpoint") from error
        checkpoint.load_weights(model, _with_own_classes(model, saved.model, path, there, names), path)
        return
    for number, member in enumerate(model.members):
        prefix = f"members.{number}."
        weights = {key.removeprefix(prefix): value for key, value in saved.model.items() if key.startswith(prefix)}
        checkpoint.load_weights(member, member.from_classifier(weights), f"{path} (member {number + 1})")


def _with_own_classes(
    model: DividedDetector, weights: dict[str, Tensor], path: str, names_there: Sequence[str], names: Sequence[str]
) -> dict[str, Tensor]:
    """A detector's weights for the classes ``names_there``, with class heads for ``names``."""
    known = [category_name(name) or name for name in names_there]  # as annotations are read
    own = model.state_dict()
    first = model.background
    heads = {key: own[key].unflatten(0, (first + len(names), -1)) for key in model.class_keys()}
    expected = {key: rows[:1].expand(first + len(known), *rows.shape[1:]).flatten(0, 1) for key, rows in heads.items()}
    checkpoint.check_weights(own | expected, weights, path)
    pairs = [(0, 0)] * first + [(first + new, first + old) for new, old in match_classes(names, known, path)]
    saved_heads = {key: weights[key].unflatten(0, (first + len(known), -1)) for key in heads}
    return weights | {key: take_rows(rows, saved_heads[key], pairs).flatten(0, 1) for key, rows in heads.items()}
