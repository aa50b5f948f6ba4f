"""Detectors on divided backbones: the root leads from images to boxes, the packages below prepare, train and judge."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detection.detections import Detections
    from detection.detector import Detector
    from detection.ensembles import Fusion
    from detection.models.ssd import SSD, create_ssd

__all__ = ["SSD", "Detections", "Detector", "Fusion", "create_ssd"]
_HOMES = {
    "Detections": "detections",
    "Detector": "detector",
    "Fusion": "ensembles",
    "SSD": "models.ssd",
    "create_ssd": "models.ssd",
}


def __getattr__(name: str) -> Any:  # on first use: settings are read without torch
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"detection.{_HOMES[name]}"), name)
