"""What is written of one image: its picture with boxes, crops of its objects, a label file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detection.detections import Detections
from detection.drawing import comparison, covered_pixels, draw_boxes, save_image
from divdet.engine.files import make_folder, write_text


def draw(image: np.ndarray, found: Detections, names: Sequence[str], members: float | None = None) -> np.ndarray:
    """The picture of an image: RGB uint8 ``[H, W, 3]``.

    Args:
        image: RGB uint8 ``[H, W, 3]``.
        found: what was found in it.
        names: class names by label.
        members: lowest score of the members' boxes to draw in panels beside the fused ones; None draws these alone.
    """
    if members is None:
        return draw_boxes(image, found.boxes.numpy(), found.labels.numpy(), names, found.scores.numpy())
    panels = [("fused", found)]
    panels += [(f"member {i}", own[own.scores >= members]) for i, own in enumerate(found.members, 1)]
    columns = [(title, *(part.numpy() for part in (own.boxes, own.labels, own.scores))) for title, own in panels]
    return comparison(image, columns, names)


def save_files(
    kinds: Sequence[str], folder: Path, name: str, image: np.ndarray, found: Detections, names: Sequence[str]
) -> None:
    """Writes the files of one image: ``crops``/class/name_1.jpg and so on, and YOLO's ``labels``/name.txt.

    A line of a label file has the class and the box's center, width and height as shares of the image. It has no score,
    which readers of labels do not expect. An image without objects gets an empty file.

    Args:
        kinds: crops, yolo or both; others are ignored.
        folder: of the results.
        name: of the image's files, without suffix.
        image: RGB uint8 ``[H, W, 3]``.
        found: what was found in it.
        names: class names by label.
    """
    height, width = image.shape[:2]
    if "crops" in kinds:
        for number, (box, label) in enumerate(zip(found.boxes.tolist(), found.labels.tolist(), strict=True), 1):
            x1, y1, x2, y2 = covered_pixels(box, width, height)
            save_image(
                make_folder(folder / "crops" / file_name(names[label])) / f"{name}_{number}.jpg", image[y1:y2, x1:x2]
            )
    if "yolo" in kinds:
        boxes = found.boxes.double().numpy() / [width, height, width, height]
        rows = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
        lines = [
            f"{label} {' '.join(f'{value:.6f}' for value in row)}\n"
            for label, row in zip(found.labels.tolist(), rows.tolist(), strict=True)
        ]
        write_text("".join(lines), make_folder(folder / "labels") / f"{name}.txt")


def file_name(text: str) -> str:
    """A text as the name of a file or folder."""
    kept = "".join(letter if letter.isalnum() or letter in " .-_()" else "_" for letter in text).strip(" .")
    return kept or "_"
