"""The detect command: pictures with boxes, and their detections as JSON."""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detection.data.annotations import CocoAnnotations, ImageRecord
from detection.data.category_match import match_categories
from detection.data.coco_results import image_of
from detection.data.dataset import read_record
from detection.data.entry_values import Fault
from detection.data.file_names import FileNames, number_in_name
from detection.data.formats.read import read_annotations
from detection.data.orientation import set_layouts
from detection.detections import rounded
from detection.detector import Detector
from detection.drawing import draw_boxes, save_image
from detection.ensembles import Fusion
from detection.images import find_images, read_image
from detection.prediction_settings import ViewSettings
from detection.settings import EvalDataSettings
from divdet.commands.fused_checkpoints import checkpoints_of, load_fusion
from divdet.commands.partial_results import PartialResults
from divdet.commands.settings import Detect
from divdet.engine.devices import use_device
from divdet.engine.errors import UserError
from divdet.engine.files import make_folder, remove_unfinished, write_json
from divdet.engine.fingerprint import digest, digest_file
from divdet.engine.progress import progress
from divdet.engine.stopping import Stopped, stop_on_signals


class _Source(NamedTuple):
    """An image to detect in."""

    path: Path
    picture: Path  # where it is drawn
    image_id: int | str  # written to detections.json, as file_name
    file_name: str
    record: ImageRecord | None  # of the annotations, where given


def detect(config: Detect) -> list[dict[str, Any]]:
    """Draw what is found in each image of ``config.sources`` and write detections.json.

    Boxes are in the pixels of the image as it is read: upright (EXIF), unless ``data.orientation`` or the annotations
    say otherwise. ``image_id`` and ``file_name`` are those of ``data.val_annotations`` where given; else ``image_id``
    is the number that is the file's name (COCO's file names are image ids), or the name. Every finished batch is kept
    in detections.part.jsonl, from which a stopped run continues with ``resume``.

    Returns:
        The entries of detections.json.

    Raises:
        UserError: for unusable input; for images that cannot be read only after all others are done.
        Stopped: after SIGINT or SIGTERM, when the current batch is saved.
    """
    if not config.checkpoint:
        raise UserError("--checkpoint is missing: give a checkpoint of train_det.py")
    if not config.sources:
        raise UserError("no images given: name files, folders or globs")
    paths = find_images(config.sources)
    detector = _load(config)
    records, category_ids, named = {}, detector.category_ids, False
    if config.data.val_annotations or config.data.path:
        records, annotations = _match_annotations(paths, config.data, detector)
        category_ids, named = annotations.category_ids, annotations.named
    folder = make_folder(config.output or "runs/detect")
    sources = _sources(paths, records, named, folder)
    partial = PartialResults(
        folder / "detections.part.jsonl", _run_settings(config, paths, records, category_ids), config.resume == "auto"
    )
    if partial.batches:
        print(f"resuming {partial.path} after {len(partial.batches)} batches")
    elif (folder / "detections.json").exists():
        print(f"note: {folder / 'detections.json'} of an earlier run is replaced; its pictures stay")
    step = 1 if config.tile else config.batch_size  # images that need tiles are large: one in memory at a time
    batches = [sources[start : start + step] for start in range(0, len(sources), step)]
    batches = batches[len(partial.batches) :]
    for path in [folder / "detections.json", *(source.picture for source in batches[0] if batches)]:
        remove_unfinished(path)  # of a run that was killed while it wrote
    left = sum(map(len, batches))
    with stop_on_signals() as stopping:
        for batch in progress(batches, "detecting", unit="batch"):
            partial.add(_detect_batch(batch, detector, category_ids, config))
            left -= len(batch)
            if stopping.signal and left:
                raise Stopped(
                    stopping.signal,
                    f"stopped, {left} of {len(paths)} images are left; {partial.path} holds what was found: continue "
                    "with --resume auto",
                )
    return _finish(partial, folder, config)


def _load(config: Detect) -> Detector | Fusion:
    if len(checkpoints_of(config)) > 1:
        return load_fusion(config)
    use_device(config.device)
    detector = Detector.load(config.checkpoint, config.device, config.postprocess, config)
    if detector.rules.kept is not None:
        print(f"classes: {detector.rules.describe(detector.names)}")
    return detector


def _match_annotations(
    paths: list[Path], data: EvalDataSettings, detector: Detector | Fusion
) -> tuple[dict[Path, ImageRecord], CocoAnnotations]:
    """Return the record of each image in the annotations, with the image as its file; and the annotations."""
    annotations = read_annotations(data, "val", need_images=bool(data.val_images))
    annotations = match_categories(detector.category_ids, detector.names, annotations)
    names = FileNames(annotations)
    folder = data.val_images and os.path.realpath(data.val_images)
    records: dict[Path, ImageRecord] = {}
    problems: list[str] = []
    for path in paths:
        name = str(path)
        if folder:
            name = Path(os.path.relpath(os.path.join(os.path.realpath(path.parent), path.name), folder)).as_posix()
        try:
            records[path] = annotations.images[names.find(name)]
            records[path].path = path
        except Fault as fault:
            problems.append(f"{path} {fault}")
    if problems:
        missing = f"{len(problems)} of the {len(paths)} images"
        raise UserError(f"{missing} are not in the annotations, the first: {problems[0]}")
    if names.by_base:
        print(f"{annotations.path}: {names.describe_by_base()}")
    if not folder:
        annotations.counts += set_layouts(annotations.images, annotations.truth, data.orientation)
    print(f"{annotations.path}: {annotations.describe()}")
    return records, annotations


def _sources(paths: list[Path], records: dict[Path, ImageRecord], named: bool, folder: Path) -> list[_Source]:
    """Choose picture names and image ids that no two files share.

    Files of one name from several folders get numbered pictures. A number that two files share (7.jpg and 007.jpg) is
    the id of the first; that of the other is its picture's name.
    """
    sources: list[_Source] = []
    pictures: set[str] = set()
    ids: set[int | str] = set()
    originals = {path.resolve() for path in paths}
    for path in paths:
        suffix = path.suffix.lower() if path.suffix.lower() in (".jpg", ".jpeg", ".png") else ".png"
        name, number = path.stem + suffix, 2
        while name in pictures:
            name, number = f"{path.stem}_{number}{suffix}", number + 1
        pictures.add(name)
        if (folder / name).resolve() in originals:
            raise UserError(f"{folder / name}: the picture would overwrite this source; choose another --output")
        if record := records.get(path):
            image_id, file_name = image_of(record, named)["image_id"], record.file_name
        else:
            image_id, file_name = number_in_name(path.name), str(path)
            image_id = Path(name).stem if image_id is None or image_id in ids else image_id
        ids.add(image_id)
        sources.append(_Source(path, folder / name, image_id, file_name, record))
    return sources


def _run_settings(
    config: Detect, paths: list[Path], records: dict[Path, ImageRecord], category_ids: Sequence[int | None]
) -> dict[str, Any]:
    """What the results depend on: settings, and digests of the checkpoint, the annotations and the images' names."""
    left_out = ("output", "device", "seed", "resume")
    settings = {key: value for key, value in asdict(config).items() if key not in left_out}
    digests = ",".join(digest_file(path) for path in checkpoints_of(config))
    settings["checkpoint"], settings["sources"] = digests, digest(list(map(str, paths)))
    if records:
        named = [
            (record.id, record.file_name, record.width, record.height, record.upright) for record in records.values()
        ]
        settings["data"] |= {"val_annotations": digest(named, list(category_ids))}
    return settings


def _detect_batch(
    batch: Sequence[_Source], detector: Detector | Fusion, category_ids: Sequence[int | None], config: Detect
) -> dict[str, Any]:
    """Detect and draw; return a batch of ``PartialResults``, without the classes that annotations do not list."""
    images: list[tuple[_Source, np.ndarray]] = []
    unreadable: list[str] = []
    upright = config.data.orientation != "stored"
    for source in batch:
        try:
            image = read_record(source.record) if source.record else read_image(source.path, orient=upright)
            images.append((source, image))
        except UserError as error:
            unreadable.append(str(error))
    how: dict[str, Any] = {}
    if isinstance(detector, Detector):  # a fusion calls its detectors with one whole image at a time
        how = {"batch_size": config.batch_size} | {one.name: getattr(config, one.name) for one in fields(ViewSettings)}
    found = detector.predict([image for _, image in images], config.score_threshold, **how)
    entries: list[dict[str, Any]] = []
    for (source, image), detections in zip(images, found, strict=True):
        boxes, labels, scores = detections.boxes.numpy(), detections.labels.numpy(), detections.scores.numpy()
        save_image(source.picture, draw_boxes(image, boxes, labels, detector.names, scores))
        columns = (values.tolist() for values in (*rounded(boxes, scores), labels))
        for box, score, label in zip(*columns, strict=True):
            if category_ids[label] is None:
                continue
            of_image = {"image_id": source.image_id, "file_name": source.file_name}
            category = {"category_id": category_ids[label], "category": detector.names[label]}
            entries.append(of_image | category | {"bbox": box, "score": score})
    empty = sum(not len(detections) for detections in found)
    return {"images": len(images), "empty": empty, "entries": entries, "unreadable": unreadable}


def _finish(partial: PartialResults, folder: Path, config: Detect) -> list[dict[str, Any]]:
    """Write detections.json of all batches; raise UserError for images that could not be read."""
    images, empty = (sum(batch[key] for batch in partial.batches) for key in ("images", "empty"))
    entries = [entry for batch in partial.batches for entry in batch["entries"]]
    unreadable = [message for batch in partial.batches for message in batch["unreadable"]]
    if images:
        write_json(entries, folder / "detections.json")
        apart = " (class_thresholds apart)" if config.postprocess.class_thresholds else ""
        found = f"{len(entries)} objects at score ≥ {config.score_threshold:g}{apart} in {images} images"
        print(f"{found} ({empty} without any); wrote {folder}")
    partial.remove()
    if len(unreadable) > 1:
        print(*unreadable, sep="\n", file=sys.stderr)
    if unreadable:
        count = f"{len(unreadable)} of {images + len(unreadable)}" if images else f"none of the {len(unreadable)}"
        verb = "could not be read" if images else "could be read"
        raise UserError(f"{count} images {verb}, the first: {unreadable[0]}")
    return entries
