"""Pictures of a data set for a page: images with their boxes, and the smallest objects as the network sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from detection.data.annotations import CocoAnnotations, ImageRecord, clip_boxes
from detection.data.dataset import read_record
from detection.data.statistics import Smallest, Statistics
from detection.drawing import draw_boxes, shrink
from detection.heads import Input
from detection.preprocess import seen_share, to_input
from divdet.engine.errors import UserError
from divdet.engine.words import counted

_SIDE = 480  # pixels of a picture's longer side
_CROP = 240
_NAMED = 8  # classes below a picture
_FRAME = (240, 228, 66)


class Sample(NamedTuple):
    """A picture and what it shows."""

    picture: np.ndarray
    record: ImageRecord
    objects: str


def samples(annotations: CocoAnnotations, count: int) -> Iterator[Sample]:
    """Images with boxes drawn, at random, but so that the rarest classes are among them."""
    for record in _choose(annotations, count):
        try:
            image = read_record(record)
        except UserError:  # it was sound when it was checked, or was not checked
            continue
        boxes, kept = clip_boxes(record.boxes, image.shape[1], image.shape[0])
        small, ratio = shrink(image, _SIDE)
        labels, crowd = record.labels[kept], record.crowd[kept]
        picture = draw_boxes(small, boxes[kept] * ratio, labels, annotations.names, crowd=crowd)
        counts = Counter(annotations.names[label] for label in labels).most_common()
        told = [f"{number:,} {name}" for name, number in counts[:_NAMED]]
        told += [counted(len(counts) - _NAMED, "more class", "more classes")] if len(counts) > _NAMED else []
        yield Sample(picture, record, ", ".join(told) or "no object")


def _choose(annotations: CocoAnnotations, count: int) -> list[ImageRecord]:
    random = np.random.default_rng(0)
    records = annotations.images
    order = random.permutation(len(records))
    with_class: dict[int, int] = {}  # the first image that has it, in random order
    numbers: Counter[int] = Counter()
    for index in order:
        for label in records[index].labels.tolist():
            with_class.setdefault(label, int(index))
            numbers[label] += 1
    rarest = [with_class[label] for label, _ in numbers.most_common()[::-1][: count // 2]]
    chosen = list(dict.fromkeys([*rarest, *order.tolist()]))[:count]
    return [records[index] for index in chosen]


class Pair(NamedTuple):
    """An object and its surroundings in its image and in the network's input, both enlarged to squares."""

    stored: np.ndarray
    seen: np.ndarray
    what: Smallest


def smallest_pairs(numbers: Statistics, count: int, form: Input) -> Iterator[Pair]:
    """The smallest objects, one an image, as they are seen in a network's input."""
    for small in list({small.record.id: small for small in reversed(numbers.smallest)}.values())[::-1][:count]:
        try:
            image = read_record(small.record)
        except UserError:
            continue
        size = np.array(image.shape[1::-1])
        side = int(min(max(8 * max(small.sides), 48), *size))
        corner = np.clip(np.array(small.center) - side / 2, 0, size - side).astype(int)
        window = np.concatenate([corner, corner + side])
        seen = to_input(image, form)
        across, down = (round(share * form.size) for share in seen_share(*size.tolist(), form))
        pictures = (image, seen[:down, :across])
        views = [_view(picture, window, small, np.array(picture.shape[1::-1]) / size) for picture in pictures]
        yield Pair(*views, small)


def _view(picture: np.ndarray, window: np.ndarray, small: Smallest, scale: np.ndarray) -> np.ndarray:
    """Enlarges a window, x1 y1 x2 y2 in pixels of the image, of a picture of ``scale``; frames the object."""
    left, top = np.floor(window[:2] * scale).astype(int)
    right, bottom = np.ceil(window[2:] * scale).astype(int)
    enlarged = cv2.resize(picture[top:bottom, left:right], (_CROP, _CROP), interpolation=cv2.INTER_NEAREST)
    zoom = _CROP / np.array([right - left, bottom - top])
    center = (np.array(small.center) * scale - (left, top)) * zoom
    half = np.array(small.sides) * scale * zoom / 2 + 4  # beside the object, not on it
    (x1, y1), (x2, y2) = (np.round(corner).astype(int).tolist() for corner in (center - half, center + half))
    cv2.rectangle(enlarged, (x1, y1), (x2, y2), (0, 0, 0), 5)
    return cv2.rectangle(enlarged, (x1, y1), (x2, y2), _FRAME, 2)
