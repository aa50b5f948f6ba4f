"""Object detection with divided, co-trained backbones, and weighted boxes fusion of their boxes.

Names are imported where they are first used, so that ``import divdet`` does not load torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classification.ensemble import combine, create_ensemble
    from detection.detections import Detections
    from detection.detector import Detector
    from detection.ensembles import Fusion
    from detection.fusion import weighted_boxes_fusion
    from detection.models.ssd import create_ssd
    from divdet.api import evaluate, fuse_results, train
    from divdet.engine.callbacks import Callback
    from divdet.engine.errors import UserError

__all__ = [
    "Callback",
    "Detections",
    "Detector",
    "Fusion",
    "UserError",
    "combine",
    "create_ensemble",
    "create_ssd",
    "evaluate",
    "fuse_results",
    "train",
    "weighted_boxes_fusion",
]
_HOMES = {
    "Callback": "divdet.engine.callbacks",
    "Detections": "detection.detections",
    "Detector": "detection.detector",
    "Fusion": "detection.ensembles",
    "UserError": "divdet.engine.errors",
    "combine": "classification.ensemble",
    "create_ensemble": "classification.ensemble",
    "create_ssd": "detection.models.ssd",
    "evaluate": "divdet.api",
    "fuse_results": "divdet.api",
    "train": "divdet.api",
    "weighted_boxes_fusion": "detection.fusion",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("divdet")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
