"""A data set of large images cut into tiles, to train a detector of small objects."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from detection.data.annotations import CocoAnnotations, Columns, ImageRecord, fill_records
from detection.data.formats.items import Item, items_of
from detection.images import read_image
from detection.preprocess import Window
from detection.views import tile_windows
from divdet.engine.errors import UserError
from divdet.engine.progress import progress

_QUALITY = 95  # of JPEG, which is written once more


@dataclass(frozen=True)
class TileRule:
    """How images are cut.

    Attributes:
        tile: side in pixels.
        overlap: see ``tile_windows``.
        min_share: a box is kept in a tile that holds this share of its area or more.
        empty_ratio: at most so many tiles without objects are kept for each one with objects, drawn by ``seed``.
    """

    tile: int
    overlap: float = 0.2
    min_share: float = 0.3
    empty_ratio: float = 0.5
    seed: int = 0


@dataclass
class _Tile:
    item: Item
    window: Window
    rows: np.ndarray  # of the item's boxes, int64 [n]
    boxes: np.ndarray  # float64 [n, 4], x y w h in the tile's pixels
    area: np.ndarray  # float64 [n]


def cut_data_set(
    splits: dict[str, CocoAnnotations], rule: TileRule, folder: Path
) -> tuple[dict[str, CocoAnnotations], Counter[str]]:
    """Writes the tiles of all images to ``folder``, upright.

    Returns:
        The tiles' annotations by split, and counts of what was changed or left out.

    Raises:
        UserError: where no tile of a split is kept.
    """
    items, classes, counts = items_of(splits, one_folder=True, by_stem=False)
    found = {}
    for number, (split, own) in enumerate(items.items()):
        tiles, lost = [], 0
        for item in own:
            of_item, dropped = _tiles_of(item, rule)
            tiles += of_item
            counts[f"parts of boxes dropped, since their tile holds less than {rule.min_share:g} of them"] += dropped
            lost += len(item.boxes) - len({row for tile in of_item for row in tile.rows.tolist()})
        counts["boxes in no tile: too large, or outside their image"] += lost
        kept = _without_most_empty(tiles, rule, number)
        counts["tiles without objects left out"] += len(tiles) - len(kept)
        if not kept:
            raise UserError(f"no tile of {split} holds an object: choose another --tile or --min_share")
        records = _write(kept, folder / str(number), split)
        found[split] = _annotations(kept, records, classes, folder)
    return found, +counts


def _tiles_of(item: Item, rule: TileRule) -> tuple[list[_Tile], int]:
    """The tiles of an image with the boxes that they hold, and how many parts of boxes were dropped."""
    tiles, dropped = [], 0
    start, area = item.boxes[:, :2], item.boxes[:, 2:].prod(axis=1)
    end = start + item.boxes[:, 2:]
    for window in tile_windows(item.width, item.height, rule.tile, rule.overlap):
        corner = np.array([window.x, window.y])
        low = np.maximum(start, corner)
        sides = np.minimum(end, corner + np.array([window.width, window.height])) - low
        inside = (sides > 0).all(axis=1)
        share = np.divide(sides.prod(axis=1), area, out=np.zeros_like(area), where=inside)
        kept = np.flatnonzero(inside & ((share >= rule.min_share) | item.crowd))  # a crowd is ignored wherever it is
        dropped += int(inside.sum()) - len(kept)
        boxes = np.concatenate([low - corner, sides], axis=1)[kept]
        tiles.append(_Tile(item, window, kept, boxes, item.area[kept] * share[kept]))
    return tiles, dropped


def _without_most_empty(tiles: list[_Tile], rule: TileRule, number: int) -> list[_Tile]:
    """The tiles with objects, and so many others as the rule allows, in order."""
    empty = [place for place, tile in enumerate(tiles) if not len(tile.rows)]
    room = int(rule.empty_ratio * (len(tiles) - len(empty)))
    left_out = set(np.random.default_rng([rule.seed, number]).permutation(empty)[room:].tolist())
    return [tile for place, tile in enumerate(tiles) if place not in left_out]


def _write(tiles: list[_Tile], folder: Path, split: str) -> list[ImageRecord]:
    """Writes tiles as PNG, or as JPEG where their image is one; each image is read once."""
    records: list[ImageRecord] = []
    item, image = None, None
    for number, tile in enumerate(progress(tiles, f"cutting {split}", unit="tile"), 1):
        if tile.item is not item:
            item = tile.item
            image = read_image(item.path, (item.width, item.height), orient=True)
        x, y, width, height = (int(value) for value in vars(tile.window).values())
        name = PurePosixPath(item.name)
        suffix = name.suffix if name.suffix.lower() in (".jpg", ".jpeg") else ".png"
        # A folder for each image: the name of a tile may be that of another image
        path = folder / str(item.id) / name.with_name(f"{name.stem}_{x}_{y}{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.ascontiguousarray(image[y : y + height, x : x + width, ::-1])
        path.write_bytes(cv2.imencode(suffix, pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes())
        file_name = path.relative_to(folder / str(item.id)).as_posix()
        records.append(ImageRecord(number, file_name, path, width, height))
    return records


def _annotations(
    tiles: list[_Tile], records: list[ImageRecord], classes: dict[int, str], folder: Path
) -> CocoAnnotations:
    counts = [len(tile.rows) for tile in tiles]
    truth = Columns(
        np.repeat(np.arange(len(tiles)), counts),
        np.concatenate([tile.item.labels[tile.rows] for tile in tiles]),
        np.concatenate([tile.boxes for tile in tiles]),
        np.concatenate([tile.area for tile in tiles]),
        np.concatenate([tile.item.crowd[tile.rows] for tile in tiles]),
    )
    changed = fill_records(records, truth)
    return CocoAnnotations(folder, records, list(classes), list(classes.values()), changed, truth)
