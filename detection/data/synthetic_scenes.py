"""Drawn scenes with exact boxes: textured shapes on cluttered backgrounds.

The outline defines an object's class; color, texture, size, rotation and proportions vary. Objects may occlude each
other, by at most half, and leave the image. Boxes bound the **visible** part, as COCO's do. Clutter is lines and blobs.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

CLASS_NAMES = ("disc", "square", "triangle", "star", "ring", "cross")
MIN_VISIBLE = 0.5
OBJECTS = (2, 8)  # tried per image; those that do not fit are left out
SIZES = (0.1, 0.55)  # longer side as a fraction of the image's shorter side
_SUBPIXEL_BITS = 4


class SceneObject(NamedTuple):
    """An object's class and masks."""

    label: int
    alpha: np.ndarray  # [H, W] uint8 coverage 0..255 of the outline
    visible: np.ndarray  # [H, W] bool: at least half covered, and not occluded
    full_area: int  # pixels of the outline, with occluded and outside parts

    @property
    def box(self) -> np.ndarray:
        """Tight box of the visible pixels, xyxy with exclusive end, [4] int64."""
        columns, rows = self.visible.any(0).nonzero()[0], self.visible.any(1).nonzero()[0]
        return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def draw_scene(rng: np.random.Generator, image_size: int) -> tuple[np.ndarray, list[SceneObject]]:
    """Draws an image, uint8 RGB [H, W, 3], with 1 to 8 objects, returned back to front."""
    ratio = math.exp(rng.uniform(-0.4, 0.4))
    scale = image_size * rng.uniform(0.85, 1.15)
    height, width = round(scale / math.sqrt(ratio)), round(scale * math.sqrt(ratio))
    image = draw_background(rng, height, width)
    objects = place_objects(rng, height, width)
    for item in objects:
        paint(rng, image, item)
    return _expose(rng, image), objects


def outline(rng: np.random.Generator, label: int) -> list[np.ndarray]:
    """Draws a class's outline: polygons [n, 2] around the origin, the second one a hole."""
    match CLASS_NAMES[label]:
        case "disc":
            return [_circle(1.0)]
        case "square":
            return [_corners([1.0] * 4)]
        case "triangle":
            return [_corners([1.0] * 3)]
        case "star":
            return [_corners([1.0, rng.uniform(0.36, 0.46)] * 5)]
        case "ring":
            return [_circle(1.0), _circle(rng.uniform(0.45, 0.65))]
    arm = rng.uniform(0.26, 0.38)  # of a cross
    quarter = np.array([[arm, arm], [arm, 1.0], [-arm, 1.0]])
    turns = [np.array([[0, 1], [-1, 0]]), -np.eye(2), np.array([[0, -1], [1, 0]])]
    return [np.concatenate([quarter, *(quarter @ turn for turn in turns)])]


def _circle(radius: float) -> np.ndarray:
    return radius * _directions(np.linspace(0, 2 * math.pi, 49))


def _corners(radii: list[float]) -> np.ndarray:
    return np.array(radii)[:, None] * _directions(np.arange(len(radii)) * (2 * math.pi / len(radii)))


def _directions(angles: np.ndarray) -> np.ndarray:
    """Unit vectors, [n, 2]."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _draw_turn(rng: np.random.Generator) -> np.ndarray:
    """Draws a rotation, [2, 2]."""
    angle = rng.uniform(0, 2 * math.pi)
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _fill(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Antialiased coverage, uint8 [height, width]; pixel i spans i to i + 1. OpenCV's edges reach 2/3 pixel too far."""
    fixed = [np.round((polygon - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32) for polygon in polygons]
    return cv2.fillPoly(np.zeros((height, width), np.uint8), fixed, 255, cv2.LINE_AA, _SUBPIXEL_BITS)


def place_objects(rng: np.random.Generator, height: int, width: int) -> list[SceneObject]:
    """Places 1 to 8 objects, back to front, none occluded by more than half."""
    objects: list[SceneObject] = []
    wanted = int(rng.integers(*OBJECTS, endpoint=True))
    tries = 0
    while not objects or (len(objects) < wanted and tries < 5 * wanted):
        tries += 1
        label = int(rng.integers(len(CLASS_NAMES)))
        turn, stretch = _draw_turn(rng), math.exp(rng.uniform(-0.2, 0.2))
        polygons = [polygon * [stretch, 1 / stretch] @ turn for polygon in outline(rng, label)]
        low, high = polygons[0].min(0), polygons[0].max(0)
        size = min(height, width) * math.exp(rng.uniform(*np.log(SIZES)))
        center = rng.uniform(0.25 * size, np.array([width, height]) - 0.25 * size)
        polygons = [(polygon - (low + high) / 2) * size / (high - low).max() + center for polygon in polygons]
        corner, side = np.floor(polygons[0].min(0)) - 2, math.ceil(size) + 5
        full_area = int((_fill([polygon - corner for polygon in polygons], side, side) >= 128).sum())
        alpha = _fill(polygons, height, width)
        covered = alpha >= 128
        behind = [item._replace(visible=item.visible & ~covered) for item in objects]
        scene = [*behind, SceneObject(label, alpha, covered, full_area)]
        if all(item.visible.sum() >= MIN_VISIBLE * item.full_area for item in scene):
            objects = scene
    return objects


def draw_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws gradients, blobs, bars and thin lines, uint8 RGB [height, width, 3]."""
    grid = (int(rng.integers(2, 5)), int(rng.integers(2, 5)))
    cells = rng.uniform(50, 205, (*grid, 1)) + rng.uniform(-45, 45, (*grid, 3)) * rng.uniform(0.2, 1)
    small = (width // 6 + 1, height // 6 + 1)
    image = cv2.resize(cells.astype(np.float32), small, interpolation=cv2.INTER_CUBIC)
    for grain in (24, 6):
        noise = rng.normal(0, rng.uniform(2, 14), (height // grain + 1, width // grain + 1)).astype(np.float32)
        image += cv2.resize(noise, small, interpolation=cv2.INTER_CUBIC)[..., None]
    image = cv2.resize(np.clip(image, 0, 255).astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(2, 7)):
        _fill_clutter(rng, image)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(1.0, 5.0))
    for _ in range(rng.integers(0, 4)):
        _fill_clutter(rng, image)
    for _ in range(rng.integers(0, 9)):
        _draw_line(rng, image)
    return image


def _fill_clutter(rng: np.random.Generator, image: np.ndarray) -> None:
    """Draws a transparent blob or bar."""
    height, width = image.shape[:2]
    angles = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    if rng.random() < 0.6:
        waves = [rng.uniform(0.1, 0.35) * np.sin(k * angles + rng.uniform(0, 6.3)) for k in (2, 3, 5)]
        polygon = (1 + sum(waves))[:, None] * _directions(angles)
    else:
        polygon = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [1, rng.uniform(0.06, 0.2)]
    turn = _draw_turn(rng)
    center = rng.uniform((0, 0), (width, height))
    alpha = _fill([polygon * rng.uniform(0.05, 0.25) * min(height, width) @ turn + center], height, width)
    _blend(image, alpha, rng.uniform(0.3, 0.9), rng.uniform(20, 235) + rng.uniform(-60, 60, 3))


def _draw_line(rng: np.random.Generator, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    ends = rng.uniform((-0.2 * width, -0.2 * height), (1.2 * width, 1.2 * height), (3, 2))
    t = np.linspace(0, 1, 24)[:, None]
    curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
    fixed = np.round(curve * 2**_SUBPIXEL_BITS).astype(np.int32)
    mask = np.zeros((height, width), np.uint8)
    cv2.polylines(mask, [fixed], False, 255, int(rng.integers(1, 4)), cv2.LINE_AA, _SUBPIXEL_BITS)
    _blend(image, mask, rng.uniform(0.3, 0.9), rng.uniform(0, 255, 3))


def _blend(image: np.ndarray, alpha: np.ndarray, opacity: float, color: np.ndarray) -> None:
    """Blends a color into the uint8 ``image`` in place, by ``alpha`` (uint8 [H, W]) times ``opacity``."""
    where = np.flatnonzero(alpha)
    pixels = image.reshape(-1, 3)
    weight = alpha.reshape(-1)[where, None] * np.float32(opacity / 255)
    old = pixels[where].astype(np.float32)
    pixels[where] = np.clip(old + (color.astype(np.float32) - old) * weight, 0, 255)


def paint(rng: np.random.Generator, image: np.ndarray, item: SceneObject) -> None:
    """Paints an object onto ``image`` (uint8 RGB) in place, in colors that stand out from the background."""
    x, y, width, height = cv2.boundingRect(item.alpha)
    patch = image[y : y + height, x : x + width]
    alpha = item.alpha[y : y + height, x : x + width]
    candidates = rng.uniform(0, 255, (6, 3))
    first = candidates[np.abs(candidates - cv2.mean(patch)[:3]).sum(1).argmax()]
    second = first + rng.choice([-1, 1]) * rng.uniform(25, 90) + rng.uniform(-25, 25, 3)
    shades = np.clip(first + np.linspace(0, 1, 256)[:, None] * (second - first), 0, 255).astype(np.uint8)
    slope = rng.uniform(0, 0.4)
    mix = (1 - slope) * _texture(rng, height, width) + slope * _ramp(rng, height, width)
    color = shades[(255 * mix).astype(np.uint8)]
    if rng.random() < 0.4:
        thickness = 2 * max(1, round(0.025 * max(height, width))) + 1
        core = cv2.erode(alpha, np.ones((thickness, thickness), np.uint8))
        color[core < 128] = rng.uniform(0.2, 0.6) * first
    weight = alpha.astype(np.float32) / 255
    patch[:] = cv2.blendLinear(color, np.ascontiguousarray(patch), weight, 1 - weight)


def _ramp(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Linear gradient in a random direction, float32 [height, width]."""
    across, down = rng.uniform(-0.5, 0.5, 2)
    x = np.linspace(-across, across, width, dtype=np.float32)
    y = np.linspace(-down, down, height, dtype=np.float32)[:, None]
    return 0.5 + x + y


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """One of six textures: weights of the second color in 0..1, [height, width]."""
    kind = int(rng.integers(6))
    if kind == 0:
        return np.zeros((height, width), np.float32)
    if kind == 1:
        return _ramp(rng, height, width)
    if kind == 2:
        grain = int(rng.integers(3, 8))
        noise = rng.uniform(0, 1, (height // grain + 2, width // grain + 2)).astype(np.float32)
        return cv2.resize(noise, (width, height))
    angle, period = rng.uniform(0, math.pi), max(5.0, max(height, width) / rng.uniform(2.5, 6))
    y, x = np.ogrid[:height, :width]
    u = np.cos((math.cos(angle) * x + math.sin(angle) * y) * np.float32(2 * math.pi / period))
    if kind == 3:
        return np.clip(2 * u + 0.5, 0, 1)
    v = np.cos((math.cos(angle) * y - math.sin(angle) * x) * np.float32(2 * math.pi / period))
    return np.clip(3 * u * v + 0.5, 0, 1) if kind == 4 else np.clip(2 * (u + v) - 1, 0, 1)


def _expose(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Applies noise, contrast and brightness; uint8."""
    gain, offset, strength = (rng.uniform(*span) for span in ((0.75, 1.1), (-20, 20), (0.02, 0.15)))
    noise = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    return cv2.addWeighted(image, gain, noise, strength, 128 * (1 - gain - strength) + offset)
