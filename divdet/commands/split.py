"""The split command: a data set divided into training and validation."""

import shlex
from pathlib import Path
from typing import Any

import yaml

from detection.data.annotations import CocoAnnotations, part_of
from detection.data.coco_json import id_of, read_json
from detection.data.coco_values import plain_number
from detection.data.entry_values import Fault
from detection.data.faults import DataError, DataFault
from detection.data.formats.folders import Source, named_images
from detection.data.formats.layouts import coco_images, find_splits
from detection.data.formats.new_folder import into_new_folder
from detection.data.formats.read import ImagesNotFound, read_source, validation_part
from detection.data.formats.write import coco_truth
from detection.data.formats.yolo import description_of, image_files, lists_suffice, place_of
from divdet.commands.convert import data_error, one_source
from divdet.commands.data_settings import Split
from divdet.engine.errors import UserError, printable
from divdet.engine.files import write_json, write_text


def split(config: Split) -> None:
    """Divides a data set as ``data.val_fraction`` does, and writes the annotations of both parts.

    YOLO gives ``train.txt``, ``val.txt`` and a ``data.yaml`` that names them; COCO ``train.json`` and ``val.json`` with
    the entries as they are; VOC, and YOLO whose labels a list of images does not lead to, the same in COCO's format.
    Images stay where they are.

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
        part = next(iter(sources))
        named = _path_of(sources[part])
        such = f", such as divdet split {shlex.quote(str(named))} …" if named else ""
        raise UserError(
            f"{path}: has the splits {', '.join(sources)} already; to divide one of them further, give its own path "
            f"instead of the whole data set{such}"
        )
    (source,) = sources.values()
    try:
        annotations = read_source(source, orientation=config.orientation, voc_origin=config.voc_origin)
    except DataError as error:
        raise data_error(error.faults, config.output) from error
    except ImagesNotFound as error:
        raise UserError(f"{error}: name their folder by --images") from error
    print(printable(f"{source}: {annotations.describe()}"))
    chosen = validation_part(annotations, config.fraction, config.seed)
    parts = {"train": part_of(annotations, ~chosen), "val": part_of(annotations, chosen)}
    folder = Path(config.output)
    if source.format == "yolo" and source.images is None and lists_suffice(source):
        into_new_folder(folder, lambda new: _write_lists(new, source, parts))
        usage = f"--data.path {shlex.quote(str(folder / 'data.yaml'))}"
    else:
        truths = _coco_parts(source, parts)
        into_new_folder(folder, lambda new: [write_json(truths[name], new / f"{name}.json", None) for name in parts])
        files = (f"--data.{name}_annotations {shlex.quote(str(folder / f'{name}.json'))}" for name in parts)
        images = shlex.quote(str(_image_folder(source, annotations)))
        usage = " ".join(f"{file} --data.{name}_images {images}" for file, name in zip(files, parts, strict=True))
    counts = ", ".join(f"{name} {len(part.images)}" for name, part in parts.items())
    print(f"wrote {folder}: images of {counts}; train by {usage}")


def _path_of(source: Source) -> Path | None:
    """The path that names one split alone, where there is one."""
    if source.split is None:
        return source.path
    if source.format == "voc":
        return source.path / "ImageSets" / "Main" / f"{source.split}.txt"
    return place_of(source)


def _write_lists(folder: Path, source: Source, parts: dict[str, CocoAnnotations]) -> None:
    """Lists of the images as they were found, beside whose paths the labels are, and all else as the source has it."""
    found = named_images(image_files(source))[1]
    for name, part in parts.items():
        own = {record.file_name for record in part.images}
        lines = [f"{path.absolute()}\n" for path, file_name in found.items() if file_name in own]
        write_text("".join(lines), folder / f"{name}.txt")
    # No class is left out: the label files keep their numbers.
    kept = description_of(source) or {"names": dict(enumerate(parts["train"].names))}
    description: dict[str, Any] = {name: f"{name}.txt" for name in parts} | kept
    write_text(yaml.safe_dump(description, sort_keys=False, allow_unicode=True), folder / "data.yaml")


def _coco_parts(source: Source, parts: dict[str, CocoAnnotations]) -> dict[str, dict[str, Any]]:
    """What to write of each part: a COCO file's own entries where they are lists, as COCO has them."""
    if source.format == "coco":
        truth = read_json(source.path)
        if isinstance(truth["images"], list) and isinstance(truth["annotations"], list):
            sides = {record.id: name for name, part in parts.items() for record in part.images}
            return _own_entries(truth, sides, source.path)
    return {name: coco_truth(part) for name, part in parts.items()}


def _own_entries(truth: dict[str, Any], sides: dict[int, str], path: Path) -> dict[str, dict[str, Any]]:
    """The entries of each part, by the ``sides`` of image ids; raises DataError for those that belong to none."""
    faults: list[DataFault] = []
    found = {name: truth | {"images": [], "annotations": []} for name in dict.fromkeys(sides.values())}
    for key, id_key in (("images", "id"), ("annotations", "image_id")):
        for index, entry in enumerate(truth[key]):
            try:
                number = id_of({id_key: plain_number(entry[id_key])} if id_key in entry else {}, id_key)
                if number not in sides:
                    raise Fault(f"has {id_key} {number}, which images does not list")
                found[sides[number]][key].append(entry)
            except Fault as fault:
                faults.append(DataFault(str(path), f"{key}[{index}]", str(fault)))
    if faults:
        raise DataError(faults)
    return found


def _image_folder(source: Source, annotations: CocoAnnotations) -> Path:
    """The folder that file names are relative to."""
    if source.format == "coco":
        return source.images or coco_images(source.path) or source.path.parent
    record = annotations.images[0]
    depth = len(Path(record.file_name).parts)
    return Path(*record.path.parts[:-depth]) if len(record.path.parts) > depth else Path(".")
