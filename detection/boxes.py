"""The boxes of an image, and which of them are kept: of which classes, from which score on."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from divdet.engine.errors import UserError

if TYPE_CHECKING:
    from detection.prediction_settings import PostprocessSettings


class Boxes(NamedTuple):
    """The boxes found on one image, on the CPU, by falling score."""

    boxes: Tensor  # [n, 4] float32 (x1, y1, x2, y2) as fractions of the input
    scores: Tensor  # [n] float32
    labels: Tensor  # [n] int64, 0-based: background is not counted


def find_classes(
    wanted: str | Sequence[str | int], names: Sequence[str], ids: Sequence[int | None], key: str = "classes"
) -> list[int]:
    """Labels of classes by name or category id, ascending; a name that is a number comes before that id.

    Args:
        wanted: classes, as a list or separated by commas.
        names, ids: of all classes, by label. Several classes of one name are all meant.
        key: for messages.

    Raises:
        UserError: for a class that is not among them.
    """
    if not isinstance(wanted, str | Sequence):
        raise UserError(f"{key} is {wanted!r}: give names or category ids, such as person,dog")
    if isinstance(wanted, str):
        wanted = [wanted] if wanted in names else [part.strip() for part in wanted.split(",")]
    labels: set[int] = set()
    for one in wanted:
        found = [label for label, name in enumerate(names) if name == str(one)]
        found = found or [label for label, number in enumerate(ids) if number is not None and str(number) == str(one)]
        if not found:
            close = difflib.get_close_matches(str(one), names, n=1)
            meant = f"did you mean {close[0]}?" if close else f"they are {', '.join(names)}"
            raise UserError(f"{key}: {str(one)!r} is no class of the detector: {meant:.300}")
        labels |= set(found)
    return sorted(labels)


@dataclass(frozen=True)
class ClassRules:
    """What becomes of final boxes.

    Attributes:
        kept: bool [C], the classes to find; None: all.
        thresholds: float64 [C], lowest scores; None: none.
        agnostic_iou: of boxes that overlap by more, whatever their classes, only the best is kept; None: all are.
    """

    kept: Tensor | None = None
    thresholds: Tensor | None = None
    agnostic_iou: float | None = None

    @classmethod
    def of(
        cls, settings: PostprocessSettings, names: Sequence[str], ids: Sequence[int | None], score_threshold: float = 0
    ) -> ClassRules:
        """The rules that settings give a detector of these classes; raises UserError for classes that it lacks.

        ``score_threshold`` is the lowest score of classes that have none of their own.
        """
        kept = thresholds = None
        if settings.classes is not None:
            kept = torch.zeros(len(names), dtype=torch.bool)
            kept[find_classes(settings.classes, names, ids, "postprocess.classes")] = True
        if score_threshold > 0 or settings.class_thresholds:
            thresholds = torch.full((len(names),), score_threshold, dtype=torch.float64)
            for name, least in (settings.class_thresholds or {}).items():
                thresholds[find_classes([name], names, ids, "postprocess.class_thresholds")] = float(least)
        return cls(kept, thresholds, settings.nms_iou if settings.class_agnostic else None)

    def describe(self, names: Sequence[str]) -> str:
        """The names of the classes that are kept."""
        return ", ".join(name for label, name in enumerate(names) if self.kept is None or self.kept[label])

    def apply(self, found: Boxes, final: bool = True) -> Boxes:
        """Drops what the rules drop; boxes of members, which are not ``final``, are kept whatever their scores."""
        if self.kept is not None:
            found = _select(found, self.kept[found.labels])
        if self.thresholds is not None and final:
            found = _select(found, found.scores >= self.thresholds.to(found.scores.dtype)[found.labels])
        if self.agnostic_iou is not None:
            from torchvision.ops import nms  # imported here, because torchvision takes long to import

            found = _select(found, nms(found.boxes.double(), found.scores.double(), self.agnostic_iou))
        return found


def _select(found: Boxes, rows: Tensor) -> Boxes:
    return Boxes(*(column[rows] for column in found))
