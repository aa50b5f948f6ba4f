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
class HeadSpec:
    """A value of ``model.head``.

    Attributes:
        network: the subclass of ``detection.models.head.DividedDetector``, or its place as ``module:Class``.
        title: for people.
        input_size: of its source, in pixels a side.
        smallest, largest: input sizes that it takes.
        multiple: of which input sizes must be.
        fit: see ``Input``.
    """

    network: str | type
    title: str
    input_size: int
    smallest: int
    largest: int = 4096
    multiple: int = 1
    fit: Fit = "stretch"

    def check_size(self, size: Any) -> None:
        """Raises UserError for an input size that the head does not take."""
        if type(size) is not int or not self.smallest <= size <= self.largest or size % self.multiple:
            steps = f", a multiple of {self.multiple}" if self.multiple > 1 else ""
            raise UserError(
                f"model.input_size is {size!r}: {self.title} takes {self.smallest} to {self.largest} pixels{steps} "
                f"(its own size is {self.input_size})"
            )


HEADS: dict[str, HeadSpec] = {
    "ssd300": HeadSpec("detection.models.ssd:SSD", "SSD300", 300, smallest=257),
}


def find_head(name: str) -> HeadSpec:
    """The head ``name``; UserError, with close names, where there is none."""
    if name not in HEADS:
        close = difflib.get_close_matches(str(name), HEADS, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(f"model.head is {name!r}: choose one of {', '.join(HEADS)}{meant}")
    return HEADS[name]


def input_of(name: str, size: int | None = None) -> Input:
    """What a head takes, at its own input size or another one; UserError for one that it does not take."""
    spec = find_head(name)
    if size is not None:
        spec.check_size(size)
    return Input(size or spec.input_size, spec.fit)


def title_of(name: str, size: int | None = None) -> str:
    """A head for people: its title, and its input size where that is not its own."""
    spec = find_head(name)
    return spec.title if size in (None, spec.input_size) else f"{spec.title} at {size} pixels"
