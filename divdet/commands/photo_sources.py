"""The images that divdet detect looks at: what each is called in results, and where its picture goes."""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from detection.data.annotations import CocoAnnotations, ImageRecord
from detection.data.category_match import match_categories
from detection.data.coco_results import image_of
from detection.data.entry_values import Fault
from detection.data.file_names import FileNames, number_in_name
from detection.data.formats.read import read_annotations
from detection.data.orientation import set_layouts
from detection.detector import Detector
from detection.ensembles import Fusion
from detection.settings import EvalDataSettings
from divdet.engine.addresses import hide_password, is_address, path_of
from divdet.engine.errors import UserError

_LONGEST = 200  # bytes of a name, to which numbers and suffixes are added


class Photo(NamedTuple):
    """An image to detect in.

    Attributes:
        path: the file, or an address.
        picture: file name of its picture.
        image_id: written to the results, as ``file_name``.
        record: of the annotations, where given.
    """

    path: str
    picture: str
    image_id: int | str
    file_name: str
    record: ImageRecord | None


def match_annotations(
    paths: list[str], data: EvalDataSettings, detector: Detector | Fusion
) -> tuple[dict[str, ImageRecord], CocoAnnotations]:
    """Return the record of each image in the annotations, with the image as its file; and the annotations."""
    annotations = read_annotations(data, "val", need_images=bool(data.val_images))
    annotations = match_categories(detector.category_ids, detector.names, annotations)
    names = FileNames(annotations)
    folder = data.val_images and os.path.realpath(data.val_images)
    records: dict[str, ImageRecord] = {}
    problems: list[str] = []
    for path in paths:
        name = path
        if folder:
            parent, base = os.path.split(path)
            name = Path(os.path.relpath(os.path.join(os.path.realpath(parent), base), folder)).as_posix()
        try:
            records[path] = annotations.images[names.find(name)]
            records[path].path = Path(path)
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


def name_photos(paths: Sequence[str], records: dict[str, ImageRecord], named: bool, folder: Path) -> list[Photo]:
    """Choose picture names and image ids that no two files share.

    Files of one name, also of other kinds or from other folders, get numbered pictures. A number that two files share
    (7.jpg and 007.jpg) is the id of the first; that of the other is its picture's name.

    Raises:
        UserError: where a picture in ``folder`` would overwrite an image, or a file that is no earlier run's.
    """
    photos: list[Photo] = []
    held = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    others = held if not any(name.startswith("detections.") for name in held) else set()
    stems: set[str] = set()
    last: dict[str, int] = {}
    ids: set[int | str] = set()
    real_path = lru_cache(os.path.realpath)
    output = os.path.realpath(folder)
    inside = set()  # names of images in the output folder
    for path in paths:
        if not is_address(path):
            parent, base = os.path.split(os.path.realpath(path) if os.path.islink(path) else path)
            if real_path(parent or ".") == output:
                inside.add(base)
    for path in paths:
        address = is_address(path)
        stem, suffix = os.path.splitext(os.path.basename(path_of(path) if address else path))
        base = own = os.fsdecode(os.fsencode(stem)[:_LONGEST]) or "image"
        while own in stems:
            last[base] = number = last.get(base, 1) + 1
            own = f"{base}_{number}"
        stems.add(own)
        name = own + (suffix.lower() if suffix.lower() in (".jpg", ".jpeg", ".png") else ".png")
        if name in inside:
            raise UserError(f"{folder / name}: the picture would overwrite this source; choose another --output")
        if name in others:
            raise UserError(
                f"{folder / name}: is there already, and no picture of an earlier run: choose another --output"
            )
        if record := records.get(path):
            image_id, file_name = image_of(record, named)["image_id"], record.file_name
        else:
            image_id, file_name = number_in_name(stem + suffix), hide_password(path) if address else path
            if image_id is None or image_id in ids:
                image_id = stem if own == base else own
        ids.add(image_id)
        photos.append(Photo(path, name, image_id, file_name, record))
    return photos
