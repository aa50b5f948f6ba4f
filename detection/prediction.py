"""The detect command: pictures with boxes, and their detections as JSON."""

from pathlib import Path
from typing import Any

import numpy as np

from detection.config import Detect
from detection.detector import Detections, Detector
from detection.drawing import draw_boxes, save_image
from detection.images import find_images, read_image
from engine.devices import use_device
from engine.errors import UserError
from engine.files import make_folder, write_json
from engine.memory import keep_freed_memory
from engine.progress import progress


def detect(config: Detect) -> list[dict[str, Any]]:
    """Draws what is found in each image of ``config.sources`` and writes detections.json; returns its entries.

    Images are read upright (EXIF); boxes are in the upright image's pixels. ``image_id`` is the file's stem, as a
    number where it is one (COCO's file names are image ids).

    Raises:
        UserError: for unusable input; for images that cannot be read only after all others are done.
    """
    if not config.checkpoint:
        raise UserError("--checkpoint is missing: give a checkpoint of train_det.py")
    if not config.sources:
        raise UserError("no images given: name files, folders or globs")
    paths = find_images(config.sources)
    keep_freed_memory()
    use_device(config.device)
    detector = Detector.load(config.checkpoint, config.device, config.postprocess, config)
    folder = make_folder(config.output or "runs/detect")
    names = _picture_names(paths)
    ids = _image_ids(names)
    sources = {path.resolve() for path in paths}
    for name in names.values():
        if (folder / name).resolve() in sources:
            raise UserError(f"{folder / name}: the picture would overwrite this source; choose another --output")
    entries: list[dict[str, Any]] = []
    unreadable: list[UserError] = []
    empty = 0
    starts = range(0, len(paths), config.batch_size)
    for start in progress(starts, "detecting", unit="batch"):
        images: dict[Path, np.ndarray] = {}
        for path in paths[start : start + config.batch_size]:
            try:
                images[path] = read_image(path, orient=True)
            except UserError as error:
                unreadable.append(error)
        found = detector.predict(list(images.values()), config.score_threshold, config.batch_size)
        for (path, image), detections in zip(images.items(), found, strict=True):
            picture = draw_boxes(
                image, detections.boxes.numpy(), detections.labels.numpy(), detector.names, detections.scores.numpy()
            )
            save_image(folder / names[path], picture)
            entries += _entries(ids[path], path, detections, detector.category_ids)
            empty += not len(detections)
    if len(unreadable) == len(paths):
        raise UserError(f"none of the {len(paths)} images could be read, the first: {unreadable[0]}")
    write_json(entries, folder / "detections.json")
    print(
        f"{len(entries)} objects at score ≥ {config.score_threshold:g} in {len(paths) - len(unreadable)} images "
        f"({empty} without any); wrote {folder}"
    )
    if unreadable:
        raise UserError(f"{len(unreadable)} of {len(paths)} images could not be read, the first: {unreadable[0]}")
    return entries


def _picture_names(paths: list[Path]) -> dict[Path, str]:
    # Files of one name from several folders must not overwrite each other's picture.
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        suffix = path.suffix.lower() if path.suffix.lower() in (".jpg", ".jpeg", ".png") else ".png"
        name, number = path.stem + suffix, 2
        while name in taken:
            name, number = f"{path.stem}_{number}{suffix}", number + 1
        taken.add(name)
        names[path] = name
    return names


def _image_ids(names: dict[Path, str]) -> dict[Path, int | str]:
    # A number that two files share (7.jpg and 007.jpg) belongs to the first; the other goes by its picture's name.
    ids: dict[Path, int | str] = {}
    taken: set[int | str] = set()
    for path, name in names.items():
        number = int(path.stem) if path.stem.isascii() and path.stem.isdigit() else None
        ids[path] = Path(name).stem if number is None or number in taken else number
        taken.add(ids[path])
    return ids


def _entries(image_id: int | str, path: Path, found: Detections, category_ids: list[int]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image_id,
            "file_name": str(path),
            "category_id": category_ids[label],
            "category": name,
            "bbox": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(score, 5),
        }
        for (x1, y1, x2, y2), score, label, name in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), found.names, strict=True
        )
    ]
