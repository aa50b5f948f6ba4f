"""The split command: a data set divided into training and validation."""

import json
from pathlib import Path
from typing import Any

import yaml

from detection.data.annotations import CocoAnnotations
from detection.data.formats.folders import Source
from detection.data.formats.layouts import find_splits
from detection.data.formats.read import ImagesNotFound, part_of, read_source, validation_part
from detection.data.formats.write import coco_truth, into_new_folder
from divdet.commands.convert import one_source
from divdet.commands.settings import Split
from divdet.engine.errors import UserError, printable
from divdet.engine.files import write_json, write_text


def split(config: Split) -> None:
    """Divides a data set as ``data.val_fraction`` does, and writes the annotations of both parts.

    YOLO gives ``train.txt``, ``val.txt`` and a ``data.yaml`` that names them; COCO ``train.json`` and ``val.json`` with
    the entries as they are; VOC the same in COCO's format. Images stay where they are.

    Raises:
        UserError: for data or settings that cannot be used, or a folder that holds files.
    """
    path = one_source(config.sources)
    if config.fraction is None:
        raise UserError("--fraction is missing: give the share of the images for validation, such as 0.2")
    if not config.output:
        raise UserError("--output is missing: name the folder to write")
    sources = find_splits(path, config.format, config.images)
    if len(sources) > 1:
        raise UserError(f"{path}: is split already ({', '.join(sources)}): name the part to split")
    (source,) = sources.values()
    try:
        annotations = read_source(source, orientation=config.orientation, voc_origin=config.voc_origin)
    except ImagesNotFound as error:
        raise UserError(f"{error}: name their folder by --images") from error
    print(printable(f"{source}: {annotations.describe()}"))
    chosen = validation_part(annotations, config.fraction, config.seed)
    parts = {"train": part_of(annotations, ~chosen), "val": part_of(annotations, chosen)}
    folder = Path(config.output)
    if source.format == "yolo" and source.images is None:
        into_new_folder(folder, lambda new: _write_lists(new, parts))
        usage = f"--data.path {folder / 'data.yaml'}"
    else:
        truths = _coco_parts(source, parts)
        into_new_folder(folder, lambda new: [write_json(truths[name], new / f"{name}.json", None) for name in parts])
        files = (f"--data.{name}_annotations {folder / f'{name}.json'}" for name in parts)
        images = _image_folder(annotations)
        usage = " ".join(f"{file} --data.{name}_images {images}" for file, name in zip(files, parts, strict=True))
    counts = ", ".join(f"{name} {len(part.images)}" for name, part in parts.items())
    print(f"wrote {folder}: images of {counts}; train by {usage}")


def _write_lists(folder: Path, parts: dict[str, CocoAnnotations]) -> None:
    for name, part in parts.items():
        write_text("".join(f"{record.path.absolute()}\n" for record in part.images), folder / f"{name}.txt")
    names = dict(enumerate(parts["train"].names))
    description: dict[str, Any] = {name: f"{name}.txt" for name in parts} | {"nc": len(names), "names": names}
    write_text(yaml.safe_dump(description, sort_keys=False, allow_unicode=True), folder / "data.yaml")


def _coco_parts(source: Source, parts: dict[str, CocoAnnotations]) -> dict[str, dict[str, Any]]:
    """What to write of each part: a COCO file's own entries where they can be told by their ids."""
    if source.format == "coco":
        truth = json.loads(source.path.read_text(encoding="utf-8-sig"))
        if isinstance(truth["images"], list) and isinstance(truth["annotations"], list):
            ids = {name: {str(record.id) for record in part.images} for name, part in parts.items()}
            known = [str(image.get("id")) for image in truth["images"]]
            if sorted(known) == sorted(number for numbers in ids.values() for number in numbers):
                return {name: _with_images(truth, numbers) for name, numbers in ids.items()}
    return {name: coco_truth(part) for name, part in parts.items()}


def _with_images(truth: dict[str, Any], ids: set[str]) -> dict[str, Any]:
    images = [image for image in truth["images"] if str(image["id"]) in ids]
    annotations = [entry for entry in truth["annotations"] if str(entry["image_id"]) in ids]
    return truth | {"images": images, "annotations": annotations}


def _image_folder(annotations: CocoAnnotations) -> Path:
    """The folder that file names are relative to."""
    record = annotations.images[0]
    depth = len(Path(record.file_name.replace("\\", "/")).parts)
    return Path(*record.path.parts[:-depth]) if len(record.path.parts) > depth else Path(".")
