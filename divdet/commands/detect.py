"""The detect command: pictures or a video with boxes, and their detections as JSON."""

from pathlib import Path

from detection.prediction_settings import EXPORT_ENDINGS
from detection.sources import is_served_stream, is_video
from divdet.commands.detect_photos import detect_photos
from divdet.commands.detect_stream import detect_stream
from divdet.commands.settings import Detect
from divdet.engine.errors import UserError


def detect(config: Detect) -> Path:
    """Draw what is found in each image of ``config.sources``, or in a video, and write detections.json.

    Boxes are in the pixels of the image as it is read: upright (EXIF), unless ``data.orientation`` or the annotations
    say otherwise. ``image_id`` and ``file_name`` are those of ``data.val_annotations`` where given; else ``image_id``
    is the number that is the file's name (COCO's file names are image ids), or the name. Every finished batch is kept
    in detections.part.jsonl, from which a stopped run continues with ``resume``. Under torchrun each process takes its
    share of the batches.

    Returns:
        The path of detections.json.

    Raises:
        UserError: for unusable input; for images that cannot be read only after all others are done.
        Stopped: after SIGINT or SIGTERM, when the batches that had begun are saved.
    """
    given = [source for source in config.sources if source.endswith((".pt", *EXPORT_ENDINGS.values()))]
    if config.checkpoint and given:
        raise UserError(f"{given[0]}: no image; several checkpoints are fused as --checkpoint A,B")
    if not config.checkpoint:
        meant = f"did you mean --checkpoint {given[0]}?" if given else "give a checkpoint of train-det"
        raise UserError(f"--checkpoint is missing: {meant}")
    if not config.sources:
        raise UserError("no images given: name files, folders or globs")
    if any(map(is_video, config.sources)) or (len(config.sources) == 1 and is_served_stream(config.sources[0])):
        return detect_stream(config)
    return detect_photos(config)
