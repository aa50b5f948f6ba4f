"""The pictures of docs/how_it_works.md, drawn from the networks, views, losses and fusion of the code.

``python -m docs.how_it_works_pictures`` draws them anew.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from classification.data.datasets import ImageSet
from classification.data.views import TrainingViews
from classification.ensemble import create_ensemble
from classification.losses import cot_weight_at, js_divergence
from classification.settings import DataSettings as ClassificationData
from classification.settings import TrainClassification
from detection.boxes import Boxes
from detection.data.augmentation import TrainingAugmentation
from detection.data.coco import load_annotations
from detection.data.dataset import TrainingImages
from detection.data.synthetic import generate
from detection.drawing import class_color
from detection.postprocess import fuse
from detection.prediction_settings import PostprocessSettings
from detection.settings import DataSettings as DetectionData
from divdet.engine.files import write_atomically

_INK, _MUTED, _DPI = "#22262b", "#5c6670", 100
_MEMBERS = ("#2f74b5", "#c9781f", "#b0405a", "#6b8a1f")
_FILLS = ("#cfe3f7", "#fde0c2", "#f7d3d9", "#dfe9b8")
_FOLDER = Path(__file__).parent / "pictures"


def draw_dividing(path: Path, backbone: str = "resnet50", members: int = 2) -> None:
    """A bottleneck of the first stage, undivided and as each member has it: bars as wide as channels, parameters below.

    Args:
        path: the PNG file.
        backbone: a residual network of bottlenecks.
        members: S, 2 to 4.
    """
    figure, axes = _figure(12, 3.7)
    whole = _bottleneck(backbone, 1)
    blocks = [(whole, "#eef1f4", "undivided")]
    blocks += [(_bottleneck(backbone, members), _FILLS[i], f"member {i + 1}") for i in range(members)]
    scale = 11.4 / (whole[0][1] + members * blocks[1][0][0][1] + 90 * members)  # inches a channel
    left = 0.3
    for channels, colour, title in blocks:
        width = channels[0][1] * scale
        middle = left + width / 2
        axes.text(middle, 3.1, title, ha="center", fontsize=12, weight="bold", color=_INK)
        count = sum(kernel**2 * inputs * outputs for kernel, inputs, outputs in channels)
        rows = [(channels[0][1], f"{channels[0][1]} channels")]
        rows += [(outputs, f"{kernel}×{kernel}, {outputs}") for kernel, _, outputs in channels]
        for row, (size, text) in enumerate(rows):
            y = 2.65 - 0.55 * row
            corner = (middle - size * scale / 2, y - 0.17)
            axes.add_patch(Rectangle(corner, size * scale, 0.34, facecolor=colour, edgecolor=_INK, lw=1.1))
            inside = size * scale > 0.12 * len(text)
            place = {"x": middle, "ha": "center"} if inside else {"x": middle + size * scale / 2 + 0.08, "ha": "left"}
            axes.text(s=text, y=y - 0.01, va="center", fontsize=10.5, color=_INK, **place)
        axes.text(middle, 0.45, f"{count:,} parameters", ha="center", fontsize=10.5, color=_MUTED)
        left += width + 90 * scale
    divided = members * sum(kernel**2 * inputs * outputs for kernel, inputs, outputs in blocks[1][0])
    total = sum(kernel**2 * inputs * outputs for kernel, inputs, outputs in whole)
    text = f"{backbone}, a block of its first stage: {total:,} parameters become {members} × {divided // members:,}"
    axes.text(0.3, 3.42, f"{text} = {divided:,}", fontsize=12.5, color=_INK)
    axes.text(0.3, 0.12, "k×k, n: a convolution of n output channels. Weights of the convolutions alone.", color=_MUTED)
    _save(figure, path)


def draw_views(path: Path) -> None:
    """A generated image, and what two members see of it: in train-cls, and in train-det with different_views.

    The views are those of the loaders; erased areas have the mean colour, which is what 0 is after normalization.

    Args:
        path: the JPEG file.
    """
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), 3, 1, seed=5)
        root = Path(folder)
        annotations = load_annotations(root / "annotations/instances_train.json", root / "images/train")
        augmentation = TrainingAugmentation(DetectionData(different_views=True, iou_crop=1.0, zoom_out=0.0), 2)
        images, boxes, labels = TrainingImages(annotations, augmentation, 19, cache=False)[0, 2]
        files = np.array([str(record.path) for record in annotations.images])
        settings = ClassificationData(
            auto_augment="imagenet", erasing=1.0, erasing_area=[0.05, 0.1], crop_area=[0.3, 1]
        )
        source = ImageSet(folder, ["scene"], np.zeros(len(files), np.int64), files)
        crops, erased, _ = TrainingViews(source, settings, 224, members=2, seed=4)[0, 2]
        original = source.read(2)
    crops = crops.numpy()
    for view, (top, left, height, width) in zip(crops, erased.tolist(), strict=True):
        view[top : top + height, left : left + width] = (124, 116, 104)

    figure = Figure(figsize=(12, 5.3), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    panels = [
        (original, (0.01, 0.2, 0.3, 0.6), "the image", _INK),
        (crops[0], (0.34, 0.52, 0.2, 0.41), "train-cls: member 1 sees", _MEMBERS[0]),
        (crops[1], (0.56, 0.52, 0.2, 0.41), "train-cls: member 2 sees", _MEMBERS[1]),
        (images[0], (0.34, 0.02, 0.2, 0.41), "train-det: member 1 sees", _MEMBERS[0]),
        (images[1], (0.56, 0.02, 0.2, 0.41), "train-det: member 2 sees", _MEMBERS[1]),
    ]
    for image, place, title, colour in panels:
        axes = figure.add_axes(place, xticks=[], yticks=[])
        axes.imshow(image, interpolation="antialiased")
        axes.set_title(title, fontsize=11.5, color=colour, weight="bold", pad=5)
        if image.shape[0] == images.shape[1]:
            for (x1, y1, x2, y2), label in zip(boxes * len(image), labels.tolist(), strict=True):
                red, green, blue = (part / 255 for part in class_color(label))
                frame = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=(red, green, blue), lw=2)
                axes.add_patch(frame)
    notes = (
        (0.78, "Each member has a random crop,\nflip, AutoAugment operation and\nerased area of its own."),
        (0.28, "All members share crop, flip and\nboxes; each has colours of its own\n(data.different_views)."),
    )
    for y, text in notes:
        figure.text(0.775, y, text, fontsize=11, color=_INK, va="center", linespacing=1.5)
    _save(figure, path)


def draw_co_training(path: Path) -> None:
    """Left: Eq. 8 of two members that give a class p and 1 − p. Right: λ over the epochs, as the settings have it.

    Args:
        path: the PNG file.
    """
    p = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    first, second = (torch.stack([q, 1 - q], -1).log() for q in (p, 1 - p))
    divergence = js_divergence(torch.stack([first, second]))
    settings = TrainClassification().train
    figure = Figure(figsize=(12, 3.9), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot(p, divergence, color=_MEMBERS[0], lw=2)
    left.axhline(np.log(2), color=_MUTED, lw=1, ls="--")
    left.text(0.5, np.log(2) - 0.02, "ln 2, the most that two members can differ", ha="center", va="top", color=_MUTED)
    for value in (0.7, 0.9):
        height = divergence[round(value * 1000) - 1].item()
        left.plot([value], [height], "o", color=_MEMBERS[1])
        left.annotate(f"{value:g} and {round(1 - value, 2):g}: {height:.3f}", (value, height), (-8, 4), **_POINT)
    left.set(xlim=(0, 1), ylim=(0, 0.75), xlabel="probability that member 1 gives a class; member 2 gives 1 − p")
    left.set_ylabel("nats")
    left.set_title("Jensen–Shannon term (Eq. 8), S = 2, two classes", fontsize=11.5, color=_INK)
    epochs = np.linspace(0, 2 * settings.cot_warmup_epochs, 401)
    weights = [cot_weight_at(epoch, settings.cot_weight, settings.cot_warmup_epochs) for epoch in epochs]
    right.plot(epochs, weights, color=_MEMBERS[0], lw=2)
    right.set(xlim=(0, epochs[-1]), ylim=(0, 1.2 * settings.cot_weight), xlabel="epoch", ylabel="λ")
    title = f"its weight: λ = {settings.cot_weight:g} after {settings.cot_warmup_epochs:g} epochs (CIFAR)"
    right.set_title(title, fontsize=11.5, color=_INK)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.tight_layout(w_pad=3)
    _save(figure, path)


def draw_fusion(path: Path) -> None:
    """Three boxes of two members, and what NMS, WBF and WBF with ``fusion_conf max`` make of them.

    Args:
        path: the PNG file.
    """
    found = [
        Boxes(torch.tensor([[0.10, 0.20, 0.50, 0.80]]), torch.tensor([0.9]), torch.tensor([0])),
        Boxes(torch.tensor([[0.18, 0.28, 0.56, 0.88], [0.68, 0.25, 0.92, 0.65]]), torch.tensor([0.6, 0.5]), _ZEROS),
    ]
    rules = {
        "NMS: the best box stays": PostprocessSettings(fusion_method="nms"),
        "WBF, avg: mean box, mean score": PostprocessSettings(),
        "WBF, max: mean box, best score": PostprocessSettings(fusion_conf="max"),
    }
    figure = Figure(figsize=(12, 3.6), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 4)
    _panel(panels[0], "two members, three boxes")
    for own, colour in zip(found, _MEMBERS, strict=False):
        _boxes(panels[0], own, colour, scores=True)
    for axes, (title, settings) in zip(panels[1:], rules.items(), strict=True):
        _panel(axes, title)
        for own, colour in zip(found, _MEMBERS, strict=False):
            _boxes(axes, own, colour, scores=False)
        (fused,) = fuse([[own] for own in found], settings)
        _boxes(axes, fused, _INK, scores=True)
    _legend(figure)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.9, bottom=0.1, wspace=0.05)
    _save(figure, path)


_ZEROS = torch.tensor([0, 0])
_POINT = {"textcoords": "offset points", "ha": "right", "color": _INK, "fontsize": 10}
PICTURES: dict[str, Callable[[Path], None]] = {
    "dividing.png": draw_dividing,
    "views.jpg": draw_views,
    "co_training.png": draw_co_training,
    "fusion.png": draw_fusion,
}


def _bottleneck(backbone: str, members: int) -> list[tuple[int, int, int]]:
    """Kernel, inputs and outputs of the three convolutions of the first stage's second block, of one member."""
    with torch.device("meta"):  # shapes without weights
        network = create_ensemble(backbone, members, num_classes=1000, dataset="imagenet").members[0]
    layers = [module for module in network.layer1[1].modules() if isinstance(module, torch.nn.Conv2d)]
    return [(layer.kernel_size[0], layer.in_channels, layer.out_channels) for layer in layers]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def _panel(axes: Axes, title: str) -> None:
    axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], facecolor="#f6f8fa")
    axes.set_title(title, fontsize=10.5, color=_INK)


def _boxes(axes: Axes, found: Boxes, colour: str, scores: bool) -> None:
    """Draws boxes, with their scores in the lower right corner or thin and without."""
    for (x1, y1, x2, y2), score in zip(found.boxes.tolist(), found.scores.tolist(), strict=True):
        style = {"lw": 2.2} if scores else {"lw": 1.0, "ls": ":"}
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, **style))
        if scores:
            place = (x1 + 0.02, y1 + 0.02, "top", "left") if y1 < 0.25 else (x2 - 0.02, y2 - 0.02, "bottom", "right")
            x, y, vertical, horizontal = place
            axes.text(x, y, f"{score:.2f}", va=vertical, ha=horizontal, color=colour, fontsize=12, weight="bold")


def _legend(figure: Figure) -> None:
    names = ("member 1", "member 2", "result")
    for x, name, colour in zip((0.36, 0.46, 0.56), names, (*_MEMBERS[:2], _INK), strict=True):
        figure.text(x, 0.025, f"■ {name}", color=colour, fontsize=10.5)


def _save(figure: Figure, path: Path) -> None:
    draw = figure.canvas.print_png if path.suffix == ".png" else figure.canvas.print_jpg
    write_atomically(path, lambda temporary: draw(temporary))


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        draw(_FOLDER / name)
