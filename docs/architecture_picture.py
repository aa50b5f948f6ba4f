"""The picture of a detector with a divided backbone, drawn from the network that the code builds."""

from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from classification.backbones.resnet import DETECTION_INPUT
from detection.default_boxes import BOXES_PER_CELL, MAP_SIZES, ssd300_default_boxes
from detection.models.ssd import create_ssd
from detection.prediction_settings import PostprocessSettings
from divdet.engine.files import write_atomically

_INK, _MUTED = "#22262b", "#5c6670"
_GREY, _GREEN, _PURPLE = "#eef1f4", "#d9efe3", "#e9e0f3"
_MEMBER_COLOURS = ("#cfe3f7", "#fde0c2", "#f7d3d9", "#dfe9b8")
_WIDTH, _DPI = 16.0, 100


def draw_architecture(backbone: str, members: int, path: Path, num_classes: int = 80) -> None:
    """Draws image, members, shared SSD300 layers, per-member suppression and fusion, left to right, as a PNG.

    Parameter counts, channels, map sizes and thresholds are those of the network and the settings themselves.

    Args:
        backbone: a name that ``create_ssd`` knows.
        members: S, from 1.
        path: the PNG file; about 1600 pixels wide.
        num_classes: foreground classes.

    Raises:
        UserError: as ``create_ssd``, or when the file cannot be written.
    """
    with torch.device("meta"):  # shapes without weights
        model = create_ssd(backbone, members, num_classes)
    settings = PostprocessSettings()
    height = max(4.2, 1.5 * members + 1.2)
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(0, height))
    axes.axis("off")
    middle = (height - 0.5) / 2
    rows = [middle + (1.5 if members > 1 else 0) * ((members - 1) / 2 - index) for index in range(members)]

    def box(x: float, y: float, width: float, tall: float, colour: str, title: str, lines: str = "") -> None:
        """A rounded box with its left edge at x, centred at y."""
        style = "round,pad=0,rounding_size=0.09"
        axes.add_patch(FancyBboxPatch((x, y - tall / 2), width, tall, style, facecolor=colour, edgecolor=_INK, lw=1.1))
        title_height, lines_height = 0.29 * len(title.splitlines()), 0.23 * len(lines.splitlines())
        text = {"ha": "center", "va": "center", "color": _INK, "linespacing": 1.3}
        centre, top = x + width / 2, y + (title_height + lines_height) / 2
        axes.text(centre, top - title_height / 2, title, fontsize=12, weight="bold", **text)
        axes.text(centre, top - title_height - lines_height / 2, lines, fontsize=10, **text)

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        style = {"arrowstyle": "-|>", "mutation_scale": 12, "lw": 1.3, "color": _MUTED, "shrinkA": 2, "shrinkB": 2}
        axes.add_patch(FancyArrowPatch(start, end, **style))

    def millions(module: torch.nn.Module) -> str:
        return f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M"

    box(0.3, middle, 1.3, 1.3, _GREY, "image", f"3 × {DETECTION_INPUT} × {DETECTION_INPUT}")
    shared_left, shared_right = 5.15, 10.1
    for index, (y, member) in enumerate(zip(rows, model.members, strict=True)):
        colour = _MEMBER_COLOURS[index % len(_MEMBER_COLOURS)]
        arrow((1.6, middle), (2.15, y))
        name = f"{backbone}, member {index + 1}" if members > 1 else backbone
        box(2.15, y, 2.45, 1.1, colour, name, f"{millions(member)} parameters")
        arrow((4.6, y), (shared_left, y))
        arrow((shared_right, y), (10.65, y))
        rule = f"score > {settings.score_threshold}\nper class, IoU {settings.nms_iou}"
        box(10.65, y, 2.3, 1.1, colour, "NMS", rule)
        arrow((12.95, y), (13.5, middle if members > 1 else y))

    tall = max(3.0, rows[0] - rows[-1] + 1.5)
    box(shared_left, middle, shared_right - shared_left, tall, _GREEN, "")
    top = middle + tall / 2
    inside = (shared_left + shared_right) / 2
    shared = torch.nn.ModuleList([model.adapters or torch.nn.ModuleList(), model.extras, model.loc, model.conf])
    title = "extra layers and heads, shared by the members" if members > 1 else "extra layers and heads"
    axes.text(inside, top - 0.3, title, ha="center", va="center", fontsize=12, weight="bold", color=_INK)
    count = f"{millions(shared)} parameters · {len(ssd300_default_boxes()):,} default boxes"
    axes.text(inside, top - 0.62, count, ha="center", va="center", fontsize=10, color=_INK)
    step = (shared_right - shared_left - 0.3) / len(MAP_SIZES)
    last_side = 0.0
    for level, (size, cell, head) in enumerate(zip(MAP_SIZES, BOXES_PER_CELL, model.loc, strict=True)):
        x, y = shared_left + 0.15 + (level + 0.5) * step, middle - 0.15
        side = 0.16 + 0.5 * (size / MAP_SIZES[0]) ** 0.5
        axes.add_patch(Rectangle((x - side / 2, y - side / 2), side, side, facecolor="white", edgecolor=_INK, lw=1.1))
        axes.text(x, y - 0.58, f"{size}×{size}", ha="center", va="center", fontsize=10, color=_INK)
        axes.text(x, y - 0.80, f"{head.in_channels} ch.", ha="center", va="center", fontsize=9, color=_MUTED)
        axes.text(x, y - 1.01, f"{cell} boxes", ha="center", va="center", fontsize=9, color=_MUTED)
        if level:
            arrow((x - step + last_side / 2, y), (x - side / 2, y))
        last_side = side
    rule = f"match at IoU > {settings.fusion_iou}\nscores: {settings.fusion_conf}\n" if members > 1 else ""
    title = "weighted\nboxes fusion" if members > 1 else "detections"
    box(13.5, middle, 2.2, 1.75, _PURPLE, title, f"{rule}boxes, scores, classes")
    title = f"SSD300, {backbone}" + (f" divided into {members} members" if members > 1 else ", undivided")
    title += f": {millions(model)} parameters"
    axes.text(0.3, height - 0.35, title, ha="left", va="center", fontsize=14, weight="bold", color=_INK)
    write_atomically(path, lambda temporary: canvas.print_png(temporary))
