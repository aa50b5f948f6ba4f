"""What a checkpoint says of its detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detection.category_names import category_name
from detection.prediction_settings import PostprocessSettings
from detection.settings import DataSettings, ModelSettings
from divdet.engine.checkpoint import Checkpoint
from divdet.engine.errors import UserError

if TYPE_CHECKING:
    from detection.models.head import DividedDetector


def saved_settings(saved: Checkpoint) -> tuple[PostprocessSettings, DataSettings]:
    """Reads a checkpoint's settings. Raises UserError if they are damaged."""
    postprocess, data = saved.setting("postprocess", dict), saved.setting("data", dict)
    try:
        return PostprocessSettings(**postprocess), DataSettings(**data)
    except (AttributeError, OverflowError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{saved.source}: its settings are damaged ({error}); use another checkpoint") from error


def saved_model(saved: Checkpoint) -> ModelSettings:
    """Reads what a checkpoint's detector is; earlier ones are of SSD300. Raises UserError if it is damaged."""
    backbone, known = saved.setting("model.backbone", str), saved.config["model"]
    head, size = known.get("head", "ssd300"), known.get("input_size")
    try:
        return ModelSettings(backbone, saved.members, head=head, input_size=size)
    except UserError as error:
        raise UserError(f"{saved.source}: {error}") from error


def saved_categories(saved: Checkpoint) -> tuple[list[str], list[int]]:
    """Reads the names and category ids by label. Raises UserError if they are damaged."""
    try:
        categories = [(int(category["id"]), category["name"]) for category in saved.meta["categories"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{saved.source}: its categories are damaged ({error!r}); use another checkpoint") from error
    names = [category_name(name) for _, name in categories]
    if None in names:
        wrong = categories[names.index(None)][1]
        raise UserError(f"{saved.source}: has the invalid category name {wrong!r:.200}; it is damaged")
    return names, [number for number, _ in categories]


def create_model(settings: ModelSettings, num_classes: int, pretrained: bool = False) -> DividedDetector:
    """Creates the detector that a recipe's section names; see ``create_detector``."""
    from detection.models.head import create_detector  # imported here: an exported detector needs no backbones

    shape = (settings.head, settings.backbone, settings.members, num_classes)
    return create_detector(*shape, settings.input_size, pretrained)
