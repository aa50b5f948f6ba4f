"""What detectors of other libraries are given and return, as one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from detection.category_names import category_name
from detection.detections import Detections
from divdet.engine.errors import UserError

_KINDS = (
    "return divdet.Detections, a dict of boxes, labels and scores (torchvision), supervision.Detections, or "
    "ultralytics results"
)
_NO_CLASSES = ("__background__", "background", "N/A")  # as torchvision names labels that mean no class
_FAR = 2.0  # boxes that reach further, in sides of the image, are of another image size


class Found(NamedTuple):
    """n objects of one image.

    Attributes:
        boxes: float64 ``[n, 4]``, xyxy in pixels, inside the image.
        scores: float64 ``[n]``, 0 to 1.
        names: of their classes.
    """

    boxes: np.ndarray
    scores: np.ndarray
    names: list[str]


def as_call(detector: Any, where: str) -> Callable[[np.ndarray], Any]:
    """How a detector is called with an RGB uint8 image ``[H, W, 3]``.

    torchvision's detectors get a list of one float tensor ``[3, H, W]`` in 0…1, ultralytics' models a BGR array;
    everything else gets the image itself.
    """
    if not callable(detector):
        raise UserError(f"{where} is {type(detector).__name__}: give a detector that can be called with an image")
    libraries = {base.__module__.partition(".")[0] for base in type(detector).__mro__}
    if isinstance(detector, nn.Module) and "torchvision" in libraries:
        return lambda image: _call_torchvision(detector, image, where)
    if "ultralytics" in libraries:
        return lambda image: detector(np.ascontiguousarray(image[..., ::-1]), verbose=False)
    return detector


@torch.inference_mode()
def _call_torchvision(model: nn.Module, image: np.ndarray, where: str) -> Any:
    if model.training:
        raise UserError(f"{where} is in training mode: call its eval() first")
    device = next(model.parameters()).device
    return model([torch.from_numpy(image.transpose(2, 0, 1).copy()).to(device).float() / 255])


def classes_of(names: Sequence[str]) -> list[str]:
    """Those of the names by label that mean a class, once each."""
    return list(dict.fromkeys(name for name in names if name not in _NO_CLASSES))


def names_of(detector: Any) -> list[str] | None:
    """The classes that a detector says it has, by its attribute ``names``: a list, or a dict by label."""
    names = getattr(detector, "names", None)
    names = list(names.values()) if isinstance(names, Mapping) else names
    known = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return list(dict.fromkeys(names)) if known and names else None


def read_found(result: Any, names: Sequence[str] | None, size: tuple[int, int], where: str, pixels: bool) -> Found:
    """Brings a result of any kind to one form.

    Args:
        result: what the detector returned.
        names: by label, for results without names.
        size: width and height of the image.
        where: which detector, for messages.
        pixels: the detector is known to give pixels: boxes in 0…1 are not taken for fractions.

    Raises:
        UserError: for another kind of result, and for values that cannot be meant.
    """
    if isinstance(result, list | tuple) and len(result) == 1:
        result = result[0]
    boxes, scores, labels, own = _columns(result, where)
    boxes, scores = _array(boxes, where, "boxes"), _array(scores, where, "scores").reshape(-1)
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
    count = len(own if labels is None else labels)
    if boxes.shape != (len(scores), 4) or count != len(scores):
        raise UserError(
            f"{where} returned boxes of the shape {list(boxes.shape)} with {len(scores)} scores and {count} classes: "
            "they must be [n, 4], n and n"
        )
    texts = own if labels is None else _named(_array(labels, where, "labels").reshape(-1), own or names, where)
    for text in texts:
        if category_name(text) != text:
            raise UserError(f"{where} returned the class name {text!r:.99}, which is no plain text: rename it")
    return Found(_checked_boxes(boxes, size, where, pixels), _checked_scores(scores, where), list(texts))


def _columns(result: Any, where: str) -> tuple[Any, Any, Any, Any]:
    """Boxes, scores, labels (None where names say more) and names (of the objects without labels, else by label)."""
    if isinstance(result, Detections):
        return result.boxes, result.scores, None, list(result.names)
    if isinstance(result, Mapping) and {"boxes", "labels", "scores"} <= result.keys():
        return result["boxes"], result["scores"], result["labels"], None
    if hasattr(result, "xyxy") and hasattr(result, "class_id"):
        if result.confidence is None and len(result.xyxy):
            raise UserError(f"{where} returned supervision.Detections without confidence: the fusion needs scores")
        scores = [] if result.confidence is None else result.confidence
        if (texts := (result.data or {}).get("class_name")) is not None:
            return result.xyxy, scores, None, [str(text) for text in texts]
        return result.xyxy, scores, [] if result.class_id is None else result.class_id, None
    boxes = getattr(result, "boxes", None)
    if all(hasattr(boxes, name) for name in ("xyxy", "conf", "cls")):
        return boxes.xyxy, boxes.conf, boxes.cls, getattr(result, "names", None)
    kind = f"a list of {len(result)}" if isinstance(result, list | tuple) else type(result).__name__
    raise UserError(f"{where} returned {kind} for an image: {_KINDS}")


def _array(values: Any, where: str, what: str) -> np.ndarray:
    try:
        values = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values)
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} returned {what} that are no numbers: {error}") from error


def _named(labels: np.ndarray, names: Any, where: str) -> list[str]:
    """The class of each label."""
    if names is None:
        if not len(labels):
            return []
        raise UserError(
            f"{where} returned labels without names: give Fusion(..., names=[…]), by label (torchvision's begin at 1: "
            'weights.meta["categories"])'
        )
    by_label = dict(names) if isinstance(names, Mapping) else dict(enumerate(names))
    for label in labels.tolist():
        if label not in by_label:
            last = max(by_label, default=-1)
            raise UserError(f"{where} returned the label {label:g}, but names are given for 0 to {last}: give all")
        if by_label[label] in _NO_CLASSES:
            raise UserError(
                f"{where} returned the label {label:g}, which names call {by_label[label]!r}: leave that name out, or "
                "check where the labels begin"
            )
    return [by_label[label] for label in labels.tolist()]


def _checked_scores(scores: np.ndarray, where: str) -> np.ndarray:
    for score in scores[~((scores >= 0) & (scores <= 1))][:1]:
        raise UserError(f"{where} returned the score {score:g}: scores must be 0 to 1")
    return scores


def _checked_boxes(boxes: np.ndarray, size: tuple[int, int], where: str, pixels: bool) -> np.ndarray:
    """The boxes, clipped to the image."""

    def refuse(box: np.ndarray, why: str) -> None:
        raise UserError(f"{where} returned the box [{', '.join(f'{value:g}' for value in box)}]{why}")

    for box in boxes[~np.isfinite(boxes).all(axis=1)][:1]:
        refuse(box, ": its coordinates must be finite")
    for box in boxes[(boxes[:, 2:] < boxes[:, :2]).any(axis=1)][:1]:
        refuse(box, " of negative size: boxes are x1, y1, x2, y2, not width and height")
    width, height = size
    if len(boxes) and boxes.max() <= 1 and not pixels and min(size) > 1:
        box = boxes[boxes.max(axis=1).argmax()]
        refuse(box, f", and none larger, for an image of {width} x {height}: give pixels, not fractions")
    limits = np.array([width, height, width, height], np.float64)
    for box in boxes[(boxes > _FAR * limits).any(axis=1)][:1]:
        refuse(box, f" for an image of {width} x {height}: give pixels of the image that the detector was called with")
    return boxes.clip(0, limits)
