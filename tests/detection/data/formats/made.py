"""Data sets as other tools write them, made by hand."""

from pathlib import Path

import numpy as np

from detection.drawing import save_image

SIZE = (200, 100)  # width, height


def image(path: Path, shade: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """Writes an image of one color, different by ``shade``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(path, np.full((size[1], size[0], 3), 40 + shade, np.uint8))
    return path


def text(path: Path, content: str) -> Path:
    """Writes a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def xml(*objects: tuple, filename: str = "", size: tuple[int, int] = SIZE) -> str:
    """A VOC file of objects (name, xmin, ymin, xmax, ymax, further elements)."""
    lines = [
        f"<object><name>{name}</name>{''.join(more)}<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2, *more in objects
    ]
    sides = f"<width>{size[0]}</width><height>{size[1]}</height><depth>3</depth>"
    return f"<annotation><filename>{filename}</filename><size>{sides}</size>\n" + "\n".join(lines) + "\n</annotation>\n"


def coco(*files: str, box: list[float] | None = None) -> dict:
    """COCO ground truth with one object of class ``cat`` in each file."""
    images = [
        {"id": number, "file_name": file, "width": SIZE[0], "height": SIZE[1]} for number, file in enumerate(files, 1)
    ]
    bbox = box or [20, 10, 40, 30]
    annotations = [
        {"id": entry["id"], "image_id": entry["id"], "category_id": 1, "bbox": bbox, "area": 1200} for entry in images
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
