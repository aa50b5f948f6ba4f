"""The detect command: pictures with boxes, and their detections as JSON."""

import hashlib
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.coco import ImageRecord, check_same_categories, load_annotations
from detection.data.dataset import read_record
from detection.data.file_names import FileNames, number_in_name
from detection.data.orientation import set_layouts
from detection.detections import Detections, rounded
from detection.detector import Detector
from detection.drawing import draw_boxes, save_image
from detection.images import find_images, read_image
from detection.settings import EvalDataSettings
from divdet.commands.partial_results import PartialResults
from divdet.commands.settings import Detect
from divdet.engine.devices import use_device
from divdet.engine.errors import UserError
from divdet.engine.files import make_folder, remove_unfinished, write_json
from divdet.engine.progress import progress
from divdet.engine.stopping import Stopped, stop_on_signals


def detect(config: Detect) -> list[dict[str, Any]]:
    """Draws what is found in each image of ``config.sources`` and writes detections.json; returns its entries.

    Boxes are in the pixels of the image as it is read: upright (EXIF), unless ``data.orientation`` or the annotations
    say otherwise. ``image_id`` and ``file_name`` are those of ``data.val_annotations`` where given; else ``image_id``
    is the number that is the file's name (COCO's file names are image ids), or the name. Every finished batch is kept
    in detections.part.jsonl, from which a stopped run continues with ``resume``.

    Raises:
        UserError: for unusable input; for images that cannot be read only after all others are done.
        Stopped: after SIGINT or SIGTERM, when the batch at hand is saved.
    """
    if not config.checkpoint:
        raise UserError("--checkpoint is missing: give a checkpoint of train_det.py")
    if not config.sources:
        raise UserError("no images given: name files, folders or globs")
    paths = find_images(config.sources)
    use_device(config.device)
    detector = Detector.load(config.checkpoint, config.device, config.postprocess, config)
    records = _annotated(paths, config.data, detector) if config.data.val_annotations else {}
    folder = make_folder(config.output or "runs/detect")
    names = _picture_names(paths)
    ids = {path: record.id for path, record in records.items()} or _image_ids(names)
    sources = {path.resolve() for path in paths}
    for name in names.values():
        if (folder / name).resolve() in sources:
            raise UserError(f"{folder / name}: the picture would overwrite this source; choose another --output")
    partial = PartialResults(folder / "detections.part.jsonl", _begun_with(config, paths), config.resume == "auto")
    if partial.batches:
        print(f"resuming {partial.path} after {len(partial.batches)} batches")
    done = len(partial.batches) * config.batch_size
    for name in ["detections.json", *(names[path] for path in paths[done : done + config.batch_size])]:
        remove_unfinished(folder / name)  # of a run that was killed while it wrote
    starts = range(done, len(paths), config.batch_size)
    with stop_on_signals() as stopping:
        for start in progress(starts, "detecting", unit="batch"):
            images: dict[Path, np.ndarray] = {}
            unreadable: list[str] = []
            for path in paths[start : start + config.batch_size]:
                try:
                    upright = config.data.orientation != "stored"
                    images[path] = read_record(records[path]) if records else read_image(path, orient=upright)
                except UserError as error:
                    unreadable.append(str(error))
            found = detector.predict(list(images.values()), config.score_threshold, config.batch_size)
            entries: list[dict[str, Any]] = []
            for (path, image), detections in zip(images.items(), found, strict=True):
                picture = draw_boxes(
                    image,
                    detections.boxes.numpy(),
                    detections.labels.numpy(),
                    detector.names,
                    detections.scores.numpy(),
                )
                save_image(folder / names[path], picture)
                file_name = records[path].file_name if records else str(path)
                entries += _entries(ids[path], file_name, detections, detector.category_ids)
            empty = sum(not len(detections) for detections in found)
            partial.add({"images": len(images), "empty": empty, "entries": entries, "unreadable": unreadable})
            left = len(paths) - start - config.batch_size
            if stopping.signal and left > 0:
                raise Stopped(
                    stopping.signal,
                    f"stopped, {left} of {len(paths)} images are left; {partial.path} holds what was found: continue "
                    "with --resume auto",
                )
    return _finish(partial, folder, config.score_threshold)


def _finish(partial: PartialResults, folder: Path, score_threshold: float) -> list[dict[str, Any]]:
    """Writes detections.json of all batches, and says what could not be read."""
    images, empty = (sum(batch[key] for batch in partial.batches) for key in ("images", "empty"))
    entries, unreadable = (
        [one for batch in partial.batches for one in batch[key]] for key in ("entries", "unreadable")
    )
    if images:
        write_json(entries, folder / "detections.json")
        print(
            f"{len(entries)} objects at score ≥ {score_threshold:g} in {images} images "
            f"({empty} without any); wrote {folder}"
        )
    partial.remove()
    if len(unreadable) > 1:
        print(*unreadable, sep="\n", file=sys.stderr)
    if unreadable:
        count = f"{len(unreadable)} of {images + len(unreadable)}" if images else f"none of the {len(unreadable)}"
        verb = "could not be read" if images else "could be read"
        raise UserError(f"{count} images {verb}, the first: {unreadable[0]}")
    return entries


def _begun_with(config: Detect, paths: list[Path]) -> dict[str, Any]:
    """What the results depend on: settings, and digests of the checkpoint, the annotations and the images' names."""
    begun = {key: value for key, value in asdict(config).items() if key not in ("output", "device", "seed", "resume")}
    begun["checkpoint"] = _digest(config.checkpoint)
    begun["sources"] = hashlib.sha256(b"\0".join(map(os.fsencode, paths))).hexdigest()
    if config.data.val_annotations:
        begun["data"] |= {"val_annotations": _digest(config.data.val_annotations)}
    return begun


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def _annotated(paths: list[Path], data: EvalDataSettings, detector: Detector) -> dict[Path, ImageRecord]:
    """The record of each image in the annotations, with the image as its file.

    Raises:
        UserError: where an image has none, or the annotations have other categories than the detector.
    """
    annotations = load_annotations(data.val_annotations, data.val_images, data.orientation)
    check_same_categories(detector.category_ids, detector.names, annotations)
    names = FileNames(annotations)
    folder = data.val_images and os.path.realpath(data.val_images)
    records: dict[Path, ImageRecord] = {}
    problems: list[str] = []
    for path in paths:
        name = str(path)
        if folder:
            name = Path(os.path.relpath(os.path.join(os.path.realpath(path.parent), path.name), folder)).as_posix()
        found = names.find(name)
        if isinstance(found, str):
            problems.append(f"{path} {found}")
        else:
            records[path] = annotations.images[found]
            records[path].path = path
    if problems:
        raise UserError(
            f"{len(problems)} of the {len(paths)} images are not in the annotations, the first: {problems[0]}"
        )
    if names.by_base:
        print(f"{data.val_annotations}: {names.describe_by_base()}")
    if not folder:
        annotations.counts += set_layouts(annotations.images, annotations.truth, data.orientation)
    print(f"{data.val_annotations}: {annotations.describe()}")
    return records


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
        number = number_in_name(path.name)
        ids[path] = Path(name).stem if number is None or number in taken else number
        taken.add(ids[path])
    return ids


def _entries(image_id: int | str, file_name: str, found: Detections, category_ids: list[int]) -> list[dict[str, Any]]:
    boxes, scores = rounded(found.boxes, found.scores)
    return [
        {
            "image_id": image_id,
            "file_name": file_name,
            "category_id": category_ids[label],
            "category": name,
            "bbox": box,
            "score": score,
        }
        for box, score, label, name in zip(
            boxes.tolist(), scores.tolist(), found.labels.tolist(), found.names, strict=True
        )
    ]
