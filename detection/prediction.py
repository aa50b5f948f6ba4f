"""The detect command: pictures with boxes, and their detections as JSON."""

from pathlib import Path
from typing import Any

from detection.config import Detect
from detection.detector import Detections, Detector
from detection.drawing import draw_boxes, save_image
from detection.images import find_images, read_image
from engine.errors import UserError
from engine.files import make_folder, write_json
from engine.progress import progress


def detect(config: Detect) -> list[dict[str, Any]]:
    """Draws what is found in each image of ``config.sources`` and writes detections.json; returns its entries.

    Images are read upright (EXIF); boxes are in the upright image's pixels. ``image_id`` is the file's stem, as a
    number where it is one (COCO's file names are image ids).
    """
    if not config.checkpoint:
        raise UserError("--checkpoint is missing: give a checkpoint of train_det.py")
    if not config.sources:
        raise UserError("no images given: name files, folders or globs")
    paths = find_images(config.sources)
    detector = Detector.load(config.checkpoint, config.device, config.postprocess)
    folder = make_folder(config.output)
    names = _picture_names(paths)
    entries: list[dict[str, Any]] = []
    empty = 0
    starts = range(0, len(paths), config.batch_size)
    for start in progress(starts, "detecting", unit="batch"):
        chunk = paths[start : start + config.batch_size]
        images = [read_image(path, orient=True) for path in chunk]
        found = detector.predict(images, config.score_threshold, config.batch_size)
        for path, image, detections in zip(chunk, images, found, strict=True):
            picture = draw_boxes(
                image, detections.boxes.numpy(), detections.labels.numpy(), detector.names, detections.scores.numpy()
            )
            save_image(folder / names[path], picture)
            entries += _entries(path, detections, detector.category_ids)
            empty += not len(detections)
    write_json(entries, folder / "detections.json")
    print(
        f"{len(entries)} objects at score ≥ {config.score_threshold:g} in {len(paths)} images ({empty} without any); "
        f"wrote {folder}"
    )
    return entries


def _picture_names(paths: list[Path]) -> dict[Path, str]:
    # Files of one name from several folders must not overwrite each other's picture.
    names: dict[Path, str] = {}
    for path in paths:
        suffix = path.suffix.lower() if path.suffix.lower() in (".jpg", ".jpeg", ".png") else ".png"
        name, number = path.stem + suffix, 2
        while name in names.values():
            name, number = f"{path.stem}_{number}{suffix}", number + 1
        names[path] = name
    return names


def _entries(path: Path, found: Detections, category_ids: list[int]) -> list[dict[str, Any]]:
    image_id = int(path.stem) if path.stem.isascii() and path.stem.isdigit() else path.stem
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
