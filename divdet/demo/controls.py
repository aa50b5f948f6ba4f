"""The settings that a page's controls change, and which of them can act."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from detection.prediction_settings import PostprocessSettings

METHODS = [
    ("weighted boxes fusion", "wbf"),
    ("NMS", "nms"),
    ("soft NMS", "soft_nms"),
    ("non-maximum weighted", "nmw"),
]
CONFS = ["avg", "max", "box_and_model_avg", "absent_model_aware_avg"]
# In the order of the page's controls, behind the lowest score that is shown
FIELDS = (
    *("nms_iou", "fusion_method", "fusion_iou", "fusion_conf", "classes"),
    *("score_threshold", "candidates_per_class", "class_agnostic"),
)
_SUPPRESSION = ("nms_iou", "score_threshold", "candidates_per_class")
_FUSION = ("fusion_method", "fusion_iou", "fusion_conf")


def settings_of(base: PostprocessSettings, values: Sequence[Any]) -> PostprocessSettings:
    """The settings with the controls' values, in the order of ``FIELDS``; the rest as in ``base``."""
    chosen = dict(zip(FIELDS, values, strict=True))
    chosen["classes"] = chosen["classes"] or None
    chosen["candidates_per_class"] = int(chosen["candidates_per_class"])
    for name in ("nms_iou", "fusion_iou", "score_threshold"):
        chosen[name] = float(chosen[name])  # JSON's 0 and 1 are whole numbers, for which loops would be compiled anew
    return replace(base, **chosen)


def why_idle(members: int, exported: bool, method: str) -> dict[str, str]:
    """The controls that cannot act, each with the reason.

    Args:
        members: S.
        exported: whether suppression is part of an exported network.
        method: of fusion.
    """
    idle = {}
    if exported:
        idle |= dict.fromkeys(_SUPPRESSION, "part of the exported file: export it again to change it")
    if members == 1:
        idle |= dict.fromkeys(_FUSION, "one member: nothing to fuse")
    elif method != "wbf":
        idle["fusion_conf"] = "of weighted boxes fusion alone"
        if method == "soft_nms":
            idle["fusion_iou"] = "soft NMS has none"
    return idle
