"""What a split is like in numbers: classes, sizes, what the network can see of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detection.data.annotations import CocoAnnotations, ImageRecord
from detection.data.box_coverage import needed_input_sizes
from detection.data.image_index import ImageFacts
from detection.heads import SSD300_BOXES, BoxPlan, Input

SIZES = ("small", "medium", "large")
_AREAS = (32**2, 96**2)  # square pixels: COCO's limits between them
_COVERED = 100_000  # objects whose default boxes are looked for, drawn at random where there are more
_SMALLEST = 10  # objects that are listed


@dataclass
class Objects:
    """All n objects of a split but crowds, as they are trained on.

    Attributes:
        image: int [n], index into the images.
        label: int [n].
        box: float [n, 4], x1 y1 x2 y2 in pixels of the image, inside it.
        size: float [n, 2], width and height of the image in pixels.
        form: the network's input.
    """

    image: np.ndarray
    label: np.ndarray
    box: np.ndarray
    size: np.ndarray
    form: Input

    @property
    def sides(self) -> np.ndarray:
        """Width and height in pixels of the image, [n, 2]."""
        return self.box[:, 2:] - self.box[:, :2]

    @property
    def input_sides(self) -> np.ndarray:
        """Width and height in pixels of the network's input, [n, 2]."""
        return self.sides / self._whole * self.form.size

    @property
    def relative(self) -> np.ndarray:
        """The boxes as fractions of the network's input, [n, 4]."""
        return self.box / np.tile(self._whole, 2)

    @property
    def _whole(self) -> np.ndarray:
        """Pixels of the image that would fill the input, [n, 2]."""
        return self.size if self.form.fit == "stretch" else np.tile(self.size.max(1, keepdims=True), 2)


@dataclass
class ClassStatistics:
    """A class in one split.

    Attributes:
        objects: without crowds.
        images: that have one.
        sizes: objects by ``SIZES`` in pixels of the image, [3].
        input_sizes: likewise in pixels of the network's input.
        input_side: median of the square root of the area in pixels of the network's input; NaN without objects.
        unmet: share of objects that meet no default box; NaN without objects.
    """

    name: str
    objects: int
    images: int
    sizes: list[int]
    input_sizes: list[int]
    input_side: float
    unmet: float


@dataclass
class Smallest:
    """An object of few pixels.

    Attributes:
        name: of its class.
        record: its image.
        center: x and y in pixels of the image.
        sides: width and height in pixels of the image.
        input_sides: likewise in pixels of the network's input.
    """

    name: str
    record: ImageRecord
    center: tuple[float, float]
    sides: tuple[float, float]
    input_sides: tuple[float, float]


@dataclass
class Statistics:
    """A split.

    Attributes:
        images, empty, objects, crowds: counts; empty images have no object, crowds are not among the objects.
        classes: by label.
        sizes, input_sizes: objects by ``SIZES``, [3] each, in pixels of the image and of the input.
        sides: histogram of the square root of the objects' areas in input pixels: count by lower limit (1, 2, 4, …).
        per_image: histogram of objects an image: count by label such as ``3-4``.
        most: objects of the fullest image.
        needed: share of the objects by the smallest input at which they meet a default box (see ``box_coverage``); 0
            stands for none. Empty without objects, or for a head without default boxes.
        input_size: pixels a side of the network's input.
        sampled: how many objects ``needed`` and ``unmet`` were measured on.
        smallest: the smallest objects in input pixels.
        image_sizes: count by width and height, most frequent first.
        shapes: count of landscape, portrait and square images.
        turned: images that their EXIF orientation turns or mirrors.
    """

    images: int
    empty: int
    objects: int
    crowds: int
    classes: list[ClassStatistics]
    sizes: list[int]
    input_sizes: list[int]
    sides: dict[int, int]
    per_image: dict[str, int]
    most: int
    needed: dict[int, float]
    sampled: int
    smallest: list[Smallest]
    image_sizes: dict[tuple[int, int], int]
    shapes: dict[str, int]
    turned: int
    input_size: int

    @property
    def unmet(self) -> float:
        """The share of objects that meet no default box; 0 where ``needed`` is empty."""
        return 1 - self.needed.get(self.input_size, 0) if self.needed else 0.0


def describe(
    annotations: CocoAnnotations,
    facts: Mapping[Path, ImageFacts],
    form: Input | None = None,
    plan: BoxPlan | None = SSD300_BOXES,
) -> Statistics:
    """Measures a split; images whose size is neither annotated nor in ``facts`` are left out of all sizes.

    Args:
        annotations: the split.
        facts: of its images.
        form: the network's input; default: SSD300's.
        plan: the network's default boxes, or None.
    """
    records, form = annotations.images, form or Input()
    sizes = [image_size(record, facts) for record in records]
    objects = _objects(records, sizes, form)
    needed, drawn = _needed(objects, plan)
    counts = np.array([np.sum(~record.crowd) for record in records], int)
    areas = np.sqrt(objects.input_sides.prod(1))
    order = np.argsort(areas, kind="stable")[:_SMALLEST]
    known = Counter(size for size in sizes if size)
    shapes: Counter[str] = Counter()
    for size, number in known.items():
        shapes[_shape(size)] += number
    return Statistics(
        images=len(records),
        empty=int(np.sum(counts == 0)),
        objects=int(counts.sum()),
        crowds=int(sum(record.crowd.sum() for record in records)),
        classes=_classes(annotations, objects, needed, drawn),
        sizes=_by_size(objects.sides),
        input_sizes=_by_size(objects.input_sides),
        sides=_powers(areas),
        per_image=_per_image(counts),
        most=int(counts.max(initial=0)),
        needed={int(size): float(np.mean(needed == size)) for size in np.unique(needed)},
        sampled=len(needed),
        smallest=[_smallest(annotations, objects, index) for index in order],
        image_sizes=dict(known.most_common()),
        shapes=dict(shapes.most_common()),
        turned=sum(facts[record.path].orientation > 1 for record in records if record.path in facts),
        input_size=form.size,
    )


def image_size(record: ImageRecord, facts: Mapping[Path, ImageFacts]) -> tuple[int, int] | None:
    """Width and height as the image is read: annotated, else decoded, else None."""
    if record.width and record.height:
        return record.width, record.height
    found = facts.get(record.path)
    if found is None or found.fault:
        return None
    return found.upright if record.upright else (found.width, found.height)


def _objects(records: list[ImageRecord], sizes: list[tuple[int, int] | None], form: Input) -> Objects:
    parts: list[tuple[np.ndarray, ...]] = [(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros((0, 2)))]
    for index, (record, size) in enumerate(zip(records, sizes, strict=True)):
        kept = ~record.crowd
        if size and kept.any():
            boxes = np.clip(record.boxes[kept].astype(float), 0, np.tile(size, 2))
            inside = (boxes[:, 2:] > boxes[:, :2]).all(1)  # boxes of images of unknown size may lie outside
            n = int(inside.sum())
            parts.append(
                (np.full(n, index), record.labels[kept][inside], boxes[inside], np.tile(np.array(size, float), (n, 1)))
            )
    return Objects(*(np.concatenate(columns) for columns in zip(*parts, strict=True)), form)


def _needed(objects: Objects, plan: BoxPlan | None) -> tuple[np.ndarray, np.ndarray]:
    """The needed input sizes of a sample, [m], and which objects it holds, [m]; none without default boxes."""
    drawn = np.arange(len(objects.label) if plan else 0)
    if len(drawn) > _COVERED:
        drawn = np.sort(np.random.default_rng(0).choice(drawn, _COVERED, replace=False))
    if plan is None:
        return drawn, drawn
    return needed_input_sizes(objects.relative[drawn], plan, objects.form.size), drawn


def _classes(
    annotations: CocoAnnotations, objects: Objects, needed: np.ndarray, drawn: np.ndarray
) -> list[ClassStatistics]:
    sides, input_sides = objects.sides, objects.input_sides
    order, order_drawn = (np.argsort(labels, kind="stable") for labels in (objects.label, objects.label[drawn]))
    ends = np.arange(1, len(annotations.names))
    parts = np.split(order, np.searchsorted(objects.label[order], ends))
    drawn_parts = np.split(order_drawn, np.searchsorted(objects.label[drawn][order_drawn], ends))
    found = []
    for name, own, sampled in zip(annotations.names, parts, drawn_parts, strict=True):
        kind = ClassStatistics(
            name=name,
            objects=len(own),
            images=len(np.unique(objects.image[own])),
            sizes=_by_size(sides[own]),
            input_sizes=_by_size(input_sides[own]),
            input_side=float(np.median(np.sqrt(input_sides[own].prod(1)))) if len(own) else float("nan"),
            unmet=float(np.mean(needed[sampled] != objects.form.size)) if len(sampled) else float("nan"),
        )
        found.append(kind)
    return found


def _by_size(sides: np.ndarray) -> list[int]:
    return np.bincount(np.digitize(sides.prod(1), _AREAS), minlength=3).tolist()


def _powers(values: np.ndarray) -> dict[int, int]:
    """A histogram by powers of two; what is below 1 counts as 1."""
    exponents = np.floor(np.log2(np.maximum(values, 1))).astype(int)
    counts = np.bincount(exponents, minlength=1)
    first = int(np.argmax(counts > 0))
    return {2**power: int(counts[power]) for power in range(first, len(counts))} if len(values) else {}


def _per_image(counts: np.ndarray) -> dict[str, int]:
    """A histogram of counts by 0, 1, 2, 3-4, 5-8, …"""
    if not len(counts):
        return {}
    limits = [0, 1, 2]
    while limits[-1] < counts.max():
        limits.append(2 * limits[-1])
    found, before = {}, -1
    for limit in limits:
        name = str(limit) if limit == before + 1 else f"{before + 1}-{limit}"
        found[name] = int(np.sum((counts > before) & (counts <= limit)))
        before = limit
    return found


def _smallest(annotations: CocoAnnotations, objects: Objects, index: int) -> Smallest:
    record, box = annotations.images[objects.image[index]], objects.box[index]
    arrays = ((box[:2] + box[2:]) / 2, objects.sides[index], objects.input_sides[index])
    return Smallest(annotations.names[objects.label[index]], record, *(tuple(array.tolist()) for array in arrays))


def span(values: Iterable[int]) -> str:
    """The least and the greatest, such as ``148 to 384``, or their only value."""
    least, most = min(values := list(values)), max(values)
    return str(least) if least == most else f"{least} to {most}"


def _shape(size: tuple[int, int]) -> str:
    return "landscape" if size[0] > size[1] else "portrait" if size[0] < size[1] else "square"
