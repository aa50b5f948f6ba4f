"""How an image is seen: whole, in tiles, mirrored, at several scales; and one set of boxes of all that.

A *voter* sees the whole image once, in one window or in several. Within a voter, suppression removes what windows found
twice: fusing windows as if they were members would divide scores by windows that never saw the object. Voters are fused
as members are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from detection.boxes import Boxes
from detection.heads import Input
from detection.prediction_settings import ViewSettings
from detection.preprocess import Window, input_window, resize_window, seen_share

# Sides of windows with tta scales, relative to those without: objects as they are, smaller, and larger
ZOOMS = (1.0, 1.25, 0.8)
# A box that ends so near a border inside the image, as a share of the window, may be a part of an object, ...
CUT_MARGIN = 0.02
# ... and is dropped if a better box holds more than this share of it.
COVERED = 0.5
_ROWS = 1024  # of cut boxes at once, which bounds memory


@dataclass(frozen=True)
class View:
    """What the network sees at once.

    Attributes:
        window: the region of the image that fills the network's input, in whole pixels.
        flipped: mirrored left to right.
        voter: see above.
    """

    window: Window
    flipped: bool = False
    voter: int = 0


class Shown(NamedTuple):
    """An input of the network: which view of which image it is."""

    image: int  # any number that tells images apart
    width: int  # of the image, in pixels
    height: int
    view: View
    mapping: tuple[float, float, float, float]  # from the image's pixels to the input's: see ``resize_window``
    views: int  # of this image


class Found(NamedTuple):
    """The boxes of an image, as fractions of the input that would show it whole, as ``Detector.detect`` gives them."""

    image: int
    size: tuple[int, int]  # width and height of the image in pixels
    members: list[Boxes]  # each member's own, all its views fused
    fused: Boxes


def tile_windows(width: int, height: int, tile: int | None, overlap: float, zoom: float = 1.0) -> list[Window]:
    """The windows that cover an image, row by row.

    They are spread evenly: neighbors share ``overlap`` of their side or more, and the last ones end with the image. A
    side of the image that is shorter than a tile is covered by one window of that length.

    Args:
        width, height: of the image in pixels.
        tile: side in pixels; None is a window of the image's own size.
        overlap: share of the side, below 1.
        zoom: factor on the windows' sides. Those that are longer than the image have it in their middle.
    """
    columns, rows = (_spans(length, tile or length, overlap, zoom) for length in (width, height))
    return [Window(x, y, across, down) for y, down in rows for x, across in columns]


def _spans(length: int, tile: int, overlap: float, zoom: float) -> list[tuple[int, int]]:
    """Starts and lengths of windows along one axis."""
    side = max(round(min(tile, length) * zoom), 1)
    if side >= length:
        return [((length - side) // 2, side)]
    count = 1 + math.ceil((length - side) / (side * (1 - overlap)) - 1e-9)  # exact multiples may be rounded up
    return [(round(start), side) for start in np.linspace(0, length - side, count).tolist()]


def plan_views(width: int, height: int, settings: ViewSettings, form: Input) -> list[View]:
    """All views of an image of so many pixels, voter by voter. Every image has the same voters."""
    views: list[View] = []
    augmentations = settings.augmentations
    for zoom in ZOOMS if "scales" in augmentations else ZOOMS[:1]:
        windows = tile_windows(width, height, settings.tile, settings.overlap, zoom)
        if settings.tile and settings.whole_image:
            whole = tile_windows(width, height, None, settings.overlap, zoom)
            windows += [window for window in whole if window not in windows]
        windows = [input_window(window, form) for window in windows]
        for flipped in (False, True) if "flip" in augmentations else (False,):
            voter = views[-1].voter + 1 if views else 0
            views += [View(window, flipped, voter) for window in windows]
    return views


def cut_views(
    images: Iterable[tuple[int, np.ndarray]], settings: ViewSettings, form: Input, batch_size: int
) -> Iterator[tuple[Tensor, list[Shown]]]:
    """Cuts images into inputs of the network, a batch at a time: memory holds one batch and one image.

    Args:
        images: numbers that tell them apart, and pixels ``[H, W, 3]`` uint8; they are taken one by one.
        settings: which views.
        form: what the network takes.
        batch_size: inputs in a batch; batches run across images.

    Yields:
        Inputs ``[n, size, size, 3]`` uint8, and what they are.
    """
    inputs: list[np.ndarray] = []
    shown: list[Shown] = []
    for number, image in images:
        height, width = image.shape[:2]
        views = plan_views(width, height, settings, form)
        for view in views:
            square, mapping = resize_window(image, view.window, form.size)
            inputs.append(square[:, ::-1] if view.flipped else square)
            shown.append(Shown(number, width, height, view, tuple(mapping.tolist()), len(views)))
            if len(inputs) == batch_size:
                yield torch.from_numpy(np.stack(inputs)), shown
                inputs, shown = [], []
    if inputs:
        yield torch.from_numpy(np.stack(inputs)), shown


def join_views(
    batches: Iterable[tuple[Tensor, Sequence[Shown]]],
    find: Callable[[Tensor], list[list[Boxes]]],
    fuse: Callable[[list[list[Boxes]], int], list[Boxes]],
    nms_iou: float,
    form: Input,
) -> Iterator[Found]:
    """Finds boxes in the views of images and joins those of each image, as soon as all its views were seen.

    Args:
        batches: as ``cut_views`` gives them; those of several images may be mixed.
        find: from inputs to boxes indexed [member][input], as fractions of the input.
        fuse: from boxes indexed [voter][image], member by member, and the number of members, to those of each image.
        nms_iou: of suppression within a voter.
        form: what the network takes.
    """
    waiting: dict[int, list[tuple[Shown, list[Boxes]]]] = {}
    for inputs, shown in batches:
        members = find(inputs)
        for position, one in enumerate(shown):
            seen = waiting.setdefault(one.image, [])
            seen.append((one, [member[position] for member in members]))
            if len(seen) == one.views:
                del waiting[one.image]
                votes = _votes(seen, nms_iou, form)
                own = [fuse([[vote] for vote in member], 1)[0] for member in votes]
                fused = fuse([[vote] for member in votes for vote in member], len(votes))[0]
                yield Found(one.image, (one.width, one.height), own, fused)


def _votes(seen: list[tuple[Shown, list[Boxes]]], nms_iou: float, form: Input) -> list[list[Boxes]]:
    """Boxes of one image indexed [member][voter], as fractions of the whole image's input."""
    if len(seen) == 1:  # the whole image, as without views
        return [[boxes] for boxes in seen[0][1]]
    voters: dict[int, list[list[tuple[Boxes, Tensor]]]] = {}
    for shown, members in seen:
        windows = voters.setdefault(shown.view.voter, [[] for _ in members])
        for own, boxes in zip(windows, members, strict=True):
            own.append(_in_image(boxes, shown, form))
    votes = [[_merge(own, nms_iou) for own in windows] for windows in voters.values()]
    return [list(own) for own in zip(*votes, strict=True)]


def _in_image(found: Boxes, shown: Shown, form: Input) -> tuple[Boxes, Tensor]:
    """Boxes of a view as those of the whole image's input, and which may be cut: bool [n].

    They are clipped to what the view shows of the image; those without area there are dropped.
    """
    window, (width, height) = shown.view.window, (shown.width, shown.height)
    boxes = found.boxes.double() * form.size
    if shown.view.flipped:
        boxes = torch.stack([form.size - boxes[:, 2], boxes[:, 1], form.size - boxes[:, 0], boxes[:, 3]], dim=1)
    scale_x, scale_y, shift_x, shift_y = shown.mapping
    boxes = (boxes - boxes.new_tensor([shift_x, shift_y] * 2)) / boxes.new_tensor([scale_x, scale_y] * 2)
    right, bottom = window.x + window.width, window.y + window.height
    low = boxes.new_tensor([max(window.x, 0), max(window.y, 0)] * 2)
    high = boxes.new_tensor([min(right, width), min(bottom, height)] * 2)
    boxes = boxes.clamp(low, high)
    inner = torch.tensor([window.x > 0, window.y > 0, right < width, bottom < height])
    margin = boxes.new_tensor([window.width, window.height] * 2) * CUT_MARGIN
    gaps = torch.cat([boxes[:, :2] - low[:2], high[2:] - boxes[:, 2:]], dim=1)
    cut = ((gaps < margin) & inner).any(1)
    across, down = seen_share(width, height, form)
    boxes = (boxes * boxes.new_tensor([across / width, down / height] * 2)).to(found.boxes.dtype)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return Boxes(boxes[kept], found.scores[kept], found.labels[kept]), cut[kept]


def _merge(windows: list[tuple[Boxes, Tensor]], nms_iou: float) -> Boxes:
    """Joins the boxes that a member found in the windows of a voter, by falling score.

    Boxes that may be cut come after all others in suppression. Of these also those are dropped of which another one
    that comes before them holds more than half.
    """
    from torchvision.ops import batched_nms  # imported here, because torchvision takes long to import

    if len(windows) == 1:
        return windows[0][0]
    found = Boxes(*(torch.cat(column) for column in zip(*(boxes for boxes, _ in windows), strict=True)))
    cut = torch.cat([own for _, own in windows])
    ranks = found.scores.double() + 2.0 * ~cut
    kept = batched_nms(found.boxes.double(), ranks, found.labels, nms_iou)
    kept = kept[~_covered(Boxes(*(column[kept] for column in found)), cut[kept])]
    kept = kept[found.scores[kept].argsort(descending=True, stable=True)]
    return Boxes(*(column[kept] for column in found))


def _covered(found: Boxes, cut: Tensor) -> Tensor:
    """Which cut boxes lie by more than ``COVERED`` in an earlier box of their class: bool [n]."""
    covered = torch.zeros(len(cut), dtype=torch.bool)
    for label in found.labels[cut].unique():
        rows = (found.labels == label).nonzero()[:, 0]
        boxes = found.boxes[rows]
        for chunk in (cut[rows].nonzero()[:, 0]).split(_ROWS):
            own = boxes[chunk, None]
            sides = (torch.minimum(own[..., 2:], boxes[:, 2:]) - torch.maximum(own[..., :2], boxes[:, :2])).clamp(min=0)
            share = sides.prod(-1) / (own[..., 2:] - own[..., :2]).prod(-1)
            earlier = torch.arange(len(boxes)) < chunk[:, None]
            covered[rows[chunk]] = ((share > COVERED) & earlier).any(1)
    return covered
