"""Pictures of boxes: one annotated image, or several results side by side."""

import colorsys
import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from divdet.engine.errors import UserError
from divdet.engine.files import write_atomically

# Okabe and Ito's color-blind safe palette without black. Further classes step around the color circle.
_PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178))
_MIN_FONT = 8
_FONT_WEIGHT = 400
_PANEL_SIDES = (420, 960)  # longer side of a panel in pixels, least and most

Color = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]


def class_color(label: int) -> Color:
    """The RGB color of a class (label from 0), always the same."""
    if label < len(_PALETTE):
        return _PALETTE[label]
    turn = (label - len(_PALETTE)) * 0.618034 % 1
    red, green, blue = colorsys.hsv_to_rgb(turn, (0.55, 0.85)[label % 2], (1.0, 0.75)[label // 2 % 2])
    return round(255 * red), round(255 * green), round(255 * blue)


def text_color(background: Color) -> Color:
    """Black or white, whichever has the greater contrast with ``background`` (WCAG 2 relative luminance)."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 0.05 * 1.05 else (255, 255, 255)


class _Plate(NamedTuple):
    place: Rectangle  # x1, y1, x2, y2, exclusive end
    text: str
    font_size: int
    color: Color


def draw_boxes(
    image: np.ndarray,
    boxes: Any,
    labels: Any,
    names: Sequence[str],
    scores: Any = None,
    crowd: Any = None,
    dashed: Any = None,
    colors: Sequence[Color] | None = None,
) -> np.ndarray:
    """Draws boxes with class names and scores, the highest scores on top. Lines and text scale with the image.

    A label that those of higher scores would hide by more than a quarter is left out.

    Args:
        image: uint8 RGB [H, W, 3]; it is not changed.
        boxes: [n, 4] xyxy in pixels, exclusive end; clipped to the image.
        labels: [n] 0-based classes.
        names: class names by label, in any script of OpenCV's built-in fonts. A box of an empty name gets no label.
        scores: [n] in 0..1, or None.
        crowd: [n] bool, drawn with dashed lines and marked, or None.
        dashed: [n] bool, drawn with dashed lines as well, or None.
        colors: by label, instead of the classes' own.

    Returns:
        A new image, uint8 RGB [H, W, 3].
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    labels = np.asarray(labels, np.int64).reshape(-1)
    crowds = np.zeros(len(boxes), bool) if crowd is None else np.asarray(crowd, bool)
    dashes = crowds if dashed is None else crowds | np.asarray(dashed, bool)
    order = np.arange(len(boxes)) if scores is None else np.argsort(np.asarray(scores), kind="stable")
    height, width = image.shape[:2]
    scale = math.sqrt(height * width)
    line, font_size = max(2, round(scale / 240)), max(_MIN_FONT + 2, round(scale / 34))
    canvas = np.array(image, order="C")  # a copy
    color_of = class_color if colors is None else colors.__getitem__
    plates: list[_Plate] = []
    taken = np.zeros((0, 4), np.int64)  # their places
    for index in order[::-1]:  # the highest scores choose places for their labels first
        if not names[labels[index]]:
            continue
        outer = covered_pixels(boxes[index], width, height)
        text = names[labels[index]] + (" (crowd)" if crowds[index] else "")
        text += "" if scores is None else f" {float(scores[index]):.2f}"
        small = max(outer[2] - outer[0], outer[3] - outer[1]) < 4 * font_size
        points = max(_MIN_FONT + 1, round(0.75 * font_size)) if small else font_size
        plate = _plate(text, outer, (width, height), points, color_of(int(labels[index])), taken)
        if plate:
            plates.append(plate)
            taken = np.vstack([taken, plate.place])
    for index in order:
        outer = covered_pixels(boxes[index], width, height)
        _draw_frame(canvas, outer, color_of(int(labels[index])), line, dashes[index])
    for plate in reversed(plates):
        x1, y1, x2, y2 = plate.place
        canvas[y1:y2, x1:x2] = plate.color
        _write(canvas, plate.text, plate.place, plate.font_size, text_color(plate.color))
    return canvas


def shrink(image: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose longer side has at most ``side`` pixels, and what multiplies its boxes: [4]."""
    scale = min(1.0, side / max(image.shape[:2]))
    size = [max(1, round(length * scale)) for length in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    return small, np.tile(np.array(size) / image.shape[1::-1], 2)


def covered_pixels(box: Sequence[float], width: int, height: int) -> Rectangle:
    """Returns the pixels that a box covers, at least one, inside the image: x1, y1, x2, y2, exclusive end."""
    x1, y1 = min(max(math.floor(box[0]), 0), width - 1), min(max(math.floor(box[1]), 0), height - 1)
    return x1, y1, min(max(math.ceil(box[2]), x1 + 1), width), min(max(math.ceil(box[3]), y1 + 1), height)


def _draw_frame(canvas: np.ndarray, box: Rectangle, color: Color, line: int, dashed: bool) -> None:
    """Draws a frame inside the box, with a dark inner edge so that it shows on its own color."""
    x1, y1, x2, y2 = box
    dark = not dashed and min(x2 - x1, y2 - y1) > 4 * line
    for thickness, ink in ((line + 1, (0, 0, 0)), (line, color)) if dark else ((line, color),):
        thickness = min(thickness, x2 - x1, y2 - y1)
        drawn = np.ones((y2 - y1, x2 - x1), bool)
        drawn[thickness:-thickness, thickness:-thickness] = False
        if dashed:
            drawn &= sum(np.ogrid[: y2 - y1, : x2 - x1]) // (4 * line) % 2 == 0
        canvas[y1:y2, x1:x2][drawn] = ink


def _plate(
    text: str, box: Rectangle, size: tuple[int, int], font_size: int, color: Color, taken: np.ndarray
) -> _Plate | None:
    """Places a label near ``box`` where it overlaps others least; None where there is no room for most of it."""
    fitted = _fit(text, font_size, size)
    if fitted is None:
        return None
    points, plate_width, plate_height = fitted
    x1, y1, x2, y2 = box
    candidates = product((y1 - plate_height, y1, y2, y2 - plate_height), (x1, x2 - plate_width))
    inside = [(x, y) for y, x in candidates if 0 <= y <= size[1] - plate_height] or [(x1, y1)]

    def place(corner: tuple[int, int]) -> Rectangle:
        x = min(max(corner[0], 0), size[0] - plate_width)
        y = min(max(corner[1], 0), size[1] - plate_height)
        return x, y, x + plate_width, y + plate_height

    def overlap(candidate: Rectangle) -> int:
        sides = np.minimum(taken[:, 2:], candidate[2:]) - np.maximum(taken[:, :2], candidate[:2])
        return int(sides.clip(0).prod(1).sum())

    best = min(map(place, inside), key=overlap)
    return _Plate(best, text, points, color) if 4 * overlap(best) <= plate_width * plate_height else None


def _fit(text: str, font_size: int, size: tuple[int, int]) -> tuple[int, int, int] | None:
    """Returns the largest font size up to ``font_size`` that fits ``size``, and the label's width and height."""
    for points in range(font_size, _MIN_FONT - 1, -1):
        left, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), cv2.FontFace("sans"), points, _FONT_WEIGHT)
        width, height = left + width + points // 2, round(1.4 * points)
        if width <= size[0] and height <= size[1]:
            return points, width, height
    return None


def _write(canvas: np.ndarray, text: str, place: Rectangle, font_size: int, color: Color) -> None:
    """Writes a line of text into the middle of ``place``."""
    font = cv2.FontFace("sans")
    left, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), font, font_size, _FONT_WEIGHT)
    start = (place[0] + (place[2] - place[0] - width) // 2 - left, (place[1] + place[3]) // 2 + round(0.36 * font_size))
    cv2.putText(canvas, text, start, color, font, font_size, _FONT_WEIGHT)


def comparison(image: np.ndarray, panels: Sequence[tuple[str, Any, Any, Any]], names: Sequence[str]) -> np.ndarray:
    """Draws the image once per result, with titles: in a row, or in a grid for more than four.

    Args:
        image: uint8 RGB [H, W, 3].
        panels: (title, boxes [n, 4] xyxy pixels, labels [n], scores [n] or None) of each result, at least one.
        names: the class names by label.

    Returns:
        uint8 RGB; the longer side of a panel has 420 to 960 pixels.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    scale = min(max(longer, _PANEL_SIDES[0]), _PANEL_SIDES[1]) / longer
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    ratio = np.array([size[0] / width, size[1] / height] * 2)
    bar, gap = round(max(size) / 14), 6
    columns = len(panels) if len(panels) <= 4 else math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    step = (size[0] + gap, size[1] + bar + gap)
    canvas = np.full((rows * step[1] - gap, columns * step[0] - gap, 3), 255, np.uint8)
    for number, (title, boxes, labels, scores) in enumerate(panels):
        x, y = number % columns * step[0], number // columns * step[1]
        drawn = draw_boxes(scaled, np.asarray(boxes, np.float64).reshape(-1, 4) * ratio, labels, names, scores)
        canvas[y + bar : y + bar + size[1], x : x + size[0]] = drawn
        canvas[y : y + bar, x : x + size[0]] = (38, 42, 48)
        fitted = _fit(title, round(0.55 * bar), (size[0], bar))
        if fitted:
            _write(canvas, title, (x, y, x + size[0], y + bar), fitted[0], (255, 255, 255))
    return canvas


def save_image(path: Path, rgb: np.ndarray) -> None:
    """Writes uint8 RGB [H, W, 3] atomically as JPEG (quality 92) or PNG, by the suffix."""
    suffix = path.suffix.lower()
    if suffix not in (".jpg", ".jpeg", ".png"):
        raise UserError(f"{path}: pictures are written as .jpg, .jpeg or .png")
    flags = [cv2.IMWRITE_PNG_COMPRESSION, 6] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 92]
    data = cv2.imencode(suffix, rgb[..., ::-1], flags)[1].tobytes()
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
