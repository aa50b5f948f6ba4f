"""The detectors that members can share: names, input sizes, and how images are brought to them. Imports no torch."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Literal

from divdet.engine.errors import UserError

Fit = Literal["stretch", "letterbox"]


@dataclass(frozen=True)
class Input:
    """What a network takes: squares.

    Attributes:
        size: pixels a side.
        fit: ``stretch`` resizes an image to the square, whatever its aspect ratio, as SSD does. ``letterbox`` keeps the
            aspect ratio and fills the right or the lower side with the mean color, as Detectron and torchvision pad.
    """

    size: int = 300
    fit: Fit = "stretch"


@dataclass(frozen=True)
class BoxPlan:
    """Where SSD's default boxes are, at any input size (Liu et al. 2016, Sec. 2.2 and 3.4).

    Scales grow with the input: a default box covers the same share of it at every size. A level's map has half the
    cells of the one before, rounded up, and its step, the distance of the centers, is its stride in pixels in the first
    ``strided`` levels, whose cells are that far apart. In the others the centers divide the input evenly.

    Attributes:
        size: the source's input in pixels a side.
        scales: in pixels at that size, one for each level; one more closes the last level's geometric mean.
        ratios: aspect ratios above 1 of each level, of which there are wide and tall boxes.
        stride: of the first level in pixels.
        strided: see above.
        unpadded: the last so many maps are made by 3x3 convolutions without stride and padding instead.
    """

    size: int
    scales: tuple[float, ...]
    ratios: tuple[tuple[int, ...], ...]
    stride: int = 8
    strided: int = 4
    unpadded: int = 0

    @property
    def boxes_per_cell(self) -> tuple[int, ...]:
        """The number of default boxes in a cell of each level."""
        return tuple(2 + 2 * len(ratios) for ratios in self.ratios)

    def map_sizes(self, size: int) -> tuple[int, ...]:
        """Cells a side of each level's map for an input of ``size`` pixels."""
        cells = [-(-size // self.stride)]
        for level in range(1, len(self.ratios)):
            unpadded = level >= len(self.ratios) - self.unpadded
            cells.append(cells[-1] - 2 if unpadded else -(-cells[-1] // 2))
        return tuple(cells)

    def steps(self, size: int) -> tuple[float, ...]:
        """The distance of neighboring centers of each level in pixels."""
        cells = self.map_sizes(size)
        return tuple(self.stride * 2**k if k < self.strided else size / own for k, own in enumerate(cells))

    def shapes(self, size: int) -> list[list[tuple[float, float]]]:
        """Width and height of the boxes of a cell in pixels, by level."""
        scales = [scale * size / self.size for scale in self.scales]
        found = []
        for scale, following, ratios in zip(scales, scales[1:], self.ratios, strict=False):
            mean = (scale * following) ** 0.5
            own = [(scale, scale), (mean, mean)]
            for ratio in ratios:
                wide, narrow = scale * ratio**0.5, scale / ratio**0.5
                own += [(wide, narrow), (narrow, wide)]
            found.append(own)
        return found


_SSD_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
# Liu et al., Sec. 3.1 and 3.4, with the scales for COCO
SSD300_BOXES = BoxPlan(300, (21, 45, 99, 153, 207, 261, 315), _SSD_RATIOS, unpadded=2)
# The same for 512 pixels: 0.04 of the input, then 0.1 to 0.9 in equal steps
SSD512_BOXES = BoxPlan(
    512, (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72), ((2,), *[(2, 3)] * 4, (2,), (2,))
)
# torchvision's SSDLite: 0.2 to 0.95 of the input in equal steps, and 1
SSDLITE_BOXES = BoxPlan(320, (64, 112, 160, 208, 256, 304, 320), ((2, 3),) * 6, stride=16, strided=0)


@dataclass(frozen=True)
class HeadSpec:
    """A value of ``model.head``.

    Attributes:
        network: the subclass of ``detection.models.head.DividedDetector``, or its place as ``module:Class``.
        title: for people.
        input_size: of its source, in pixels a side.
        smallest, largest: input sizes that it takes.
        multiple: of which input sizes must be.
        fit: see ``Input``.
        boxes: its default boxes, or None.
    """

    network: str | type
    title: str
    input_size: int
    smallest: int
    largest: int = 4096
    multiple: int = 1
    fit: Fit = "stretch"
    boxes: BoxPlan | None = None

    def sizes_around(self, size: int, share: float) -> list[int]:
        """Input sizes that it takes, multiples of 32 and ``size``, of at most ``share`` more or less than ``size``."""
        near = range(-(-max(self.smallest, round(size * (1 - share))) // 32) * 32, round(size * (1 + share)) + 1, 32)
        return sorted({size, *(other for other in near if other <= self.largest and not other % self.multiple)})

    def check_size(self, size: Any, key: str) -> None:
        """Raises UserError, which names ``key``, for an input size that the head does not take."""
        if type(size) is not int or not self.smallest <= size <= self.largest or size % self.multiple:
            steps = f", a multiple of {self.multiple}" if self.multiple > 1 else ""
            raise UserError(
                f"{key} is {size!r}: {self.title} takes {self.smallest} to {self.largest} pixels{steps} "
                f"(its own size is {self.input_size})"
            )


HEADS: dict[str, HeadSpec] = {
    "ssd300": HeadSpec("detection.models.ssd:SSD", "SSD300", 300, smallest=257, boxes=SSD300_BOXES),
    "ssd512": HeadSpec("detection.models.ssd:SSD512", "SSD512", 512, smallest=128, boxes=SSD512_BOXES),
    "ssdlite": HeadSpec("detection.models.ssdlite:SSDLite", "SSDLite", 320, smallest=128, boxes=SSDLITE_BOXES),
    "fcos": HeadSpec("detection.models.fcos:FCOS", "FCOS", 512, smallest=64, multiple=32, fit="letterbox"),
}


def find_head(name: str) -> HeadSpec:
    """The head ``name``; UserError, with close names, where there is none."""
    if not isinstance(name, str) or name not in HEADS:  # checkpoints may hold anything
        close = difflib.get_close_matches(str(name), HEADS, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(f"model.head is {name!r}: choose one of {', '.join(HEADS)}{meant}")
    return HEADS[name]


def input_of(name: str, size: int | None = None, key: str = "model.input_size") -> Input:
    """What a head takes, at its own input size or another one; UserError, which names ``key``, if it is none."""
    spec = find_head(name)
    if size is not None:
        spec.check_size(size, key)
    return Input(size or spec.input_size, spec.fit)


def title_of(name: str, size: int | None = None) -> str:
    """A head for people: its title, and its input size where that is not its own."""
    spec = find_head(name)
    return spec.title if size in (None, spec.input_size) else f"{spec.title} at {size} pixels"
