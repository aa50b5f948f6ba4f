"""Pictures of what detections found, missed and made up, for a page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from detection.data.annotations import CocoAnnotations
from detection.data.coco_results import Results
from detection.data.dataset import read_record
from detection.drawing import Color, draw_boxes, shrink
from detection.visual.html import figure, image, text
from divdet.engine.errors import UserError
from divdet.engine.words import counted

if TYPE_CHECKING:
    from detection.evaluation.matches import Matches, Outcome

# Of Okabe and Ito's color-blind safe palette; what is missed is dashed as well
FOUND, FALSE, MISSED = (86, 180, 233), (213, 94, 0), (240, 228, 66)
KEY = ((FOUND, "found"), (FALSE, "false"), (MISSED, "missed (dashed: as annotated)"))
_BACK = (0, 0, 0)  # between dashes
_SIDE = 420  # pixels of a panel's longer side
_CROP = 240
_NAMED = 15  # boxes of an image whose names are readable
_TRIED = 12  # images that cannot be read
_BYTES = 36_000  # of a panel


@dataclass
class Found:
    """A detector's results, matched, at a threshold."""

    name: str
    results: Results
    matches: Matches
    outcome: Outcome


@dataclass
class Pictures:
    """Draws images of a ground truth; counts those that cannot be read.

    Attributes:
        known: whether it is known where the images are.
        unread: why, by file.
    """

    annotations: CocoAnnotations
    known: bool = True
    unread: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._read = lru_cache(4)(self._load)

    def _load(self, index: int) -> np.ndarray | None:
        record = self.annotations.images[index]
        if self.gave_up or not self.known:
            return None
        try:
            return read_record(record)
        except UserError as error:
            self.unread[record.file_name] = str(error)
            return None

    @property
    def gave_up(self) -> bool:
        """Whether so many images cannot be read that others are not tried."""
        return len(self.unread) >= _TRIED

    def name(self, index: int) -> str:
        """The image's file, without its folder."""
        return Path(self.annotations.images[index].file_name).name

    def panels(self, index: int, shown: list[Found], caption: str) -> str:
        """Ground truth beside what was found in an image; empty where it cannot be read."""
        whole = self._read(index)
        if whole is None:
            return ""
        small, ratio = shrink(whole, _SIDE)
        truth = self.annotations.truth
        rows = np.flatnonzero(truth.image == index)
        names = self.annotations.names if len(rows) <= _NAMED else [""] * len(self.annotations.names)
        boxes = _corners(truth.bbox[rows]) * ratio
        drawn = draw_boxes(small, boxes, truth.label[rows], names, crowd=truth.crowd[rows])
        objects = counted(int((~truth.crowd[rows]).sum()), "object")
        parts = [_panel(drawn, "ground truth", objects, self.name(index))]
        for one in shown:
            parts.append(
                _panel(self._outcome(small, ratio, index, one), one.name, _words(one, index), self.name(index))
            )
        return figure(f'<div class="panels">{"".join(parts)}</div>', caption, above=True)

    def _outcome(self, small: np.ndarray, ratio: np.ndarray, index: int, one: Found) -> np.ndarray:
        truth, results, names = self.annotations.truth, one.results, self.annotations.names
        inside = np.flatnonzero(results.image == index)
        inside = inside[results.score[inside] >= one.outcome.threshold]
        right = inside[one.matches.object[inside] >= 0]
        false = inside[one.outcome.false[inside]]
        missed = np.flatnonzero((truth.image == index) & ~truth.crowd & ~one.outcome.found)
        errors = len(false) + len(missed)
        texts = [f"{names[results.label[row]]} {results.score[row]:.2f}" for row in [*right, *false]]
        texts += [names[truth.label[row]] for row in missed]
        named = [len(right) + errors <= _NAMED] * len(right) + [errors <= _NAMED] * errors
        texts = [name if readable else "" for name, readable in zip(texts, named, strict=True)]
        colors = [FOUND] * len(right) + [FALSE] * len(false) + [MISSED] * len(missed)
        boxes = np.concatenate([results.bbox[right], results.bbox[false], truth.bbox[missed]])
        return _draw(small, _corners(boxes) * ratio, texts, colors, len(missed))

    def crop(self, index: int, bbox: np.ndarray, color: Color, caption: str) -> str:
        """An object (x y width height) with its surroundings; empty where the image cannot be read."""
        whole = self._read(index)
        if whole is None:
            return ""
        size = np.array(whole.shape[1::-1])
        side = np.minimum(max(2.5 * max(bbox[2:]), 64), size)
        start = np.clip(bbox[:2] + bbox[2:] / 2 - side / 2, 0, size - side).astype(int)
        stop = np.maximum(np.ceil(start + side).astype(int), start + 1)
        part = whole[start[1] : stop[1], start[0] : stop[0]]
        scale = _CROP / max(part.shape[:2])
        shape = [max(1, round(length * scale)) for length in part.shape[1::-1]]
        part = cv2.resize(part, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        box = (_corners(bbox[None]) - np.tile(start, 2)) * scale
        drawn = _draw(part, box, [""], [color], int(color == MISSED))
        return figure(image(drawn, caption, _BYTES // 2), caption)


def first_drawn(pictures: Iterable[str], most: int) -> list[str]:
    """The first pictures that are not empty; of the others the images cannot be read."""
    return list(islice(filter(None, pictures), most))


def _draw(picture: np.ndarray, boxes: np.ndarray, texts: list[str], colors: list[Color], dashed: int) -> np.ndarray:
    """Draws boxes, the last ``dashed`` of them dashed."""
    plain, count = len(texts) - dashed, len(texts)
    boxes = np.concatenate([boxes[:plain], boxes[plain:], boxes[plain:]])
    texts, colors = texts[:plain] + [""] * dashed + texts[plain:], colors[:plain] + [_BACK] * dashed + colors[plain:]
    return draw_boxes(picture, boxes, range(len(boxes)), texts, dashed=np.arange(len(boxes)) >= count, colors=colors)


def _panel(picture: np.ndarray, title: str, words: str, name: str) -> str:
    shown = image(picture, f"{name}, {title}: {words}", _BYTES)
    return f"<div>{shown}<p><b>{text(title)}</b> {text(words)}</p></div>"


def _words(one: Found, index: int) -> str:
    found, missed, false = one.outcome.counts[index].tolist()
    return f"{found} found, {missed} missed, {false} false"


def _corners(bbox: np.ndarray) -> np.ndarray:
    return np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], 1)
