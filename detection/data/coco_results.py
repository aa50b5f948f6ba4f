"""Detections of many images, and COCO's format of them: ``[{image_id, category_id, bbox: [x, y, w, h], score}, …]``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from detection.category_names import category_name
from detection.data.annotations import CocoAnnotations, ImageRecord, columns_of
from detection.data.coco_json import bbox_of, id_of, read_entries, read_json
from detection.data.coco_values import box_around, check_mask, plain_number
from detection.data.doubtful import count_repeats
from detection.data.entry_values import Fault, is_number, show
from detection.data.file_names import FileNames, number_in_name
from detection.data.yolo_results import Row, label_files, read_yolo_results
from divdet.engine.errors import UserError
from divdet.engine.files import write_atomically
from divdet.engine.words import counted


@dataclass
class Results:
    """n detections as columns: 56 bytes each, a tenth of the parsed file.

    Attributes:
        image: int64 [n], index into the annotations' images.
        label: int64 [n], 0-based.
        bbox: float64 [n, 4], x y width height in pixels.
        score: float64 [n].
    """

    image: np.ndarray
    label: np.ndarray
    bbox: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.score)


def load_results(results_path: str | Path, annotations: CocoAnnotations) -> Results:
    """Read a COCO results file of any detector, or a folder (``read_yolo_results``), to score against ``annotations``.

    An entry belongs to the image of its ``file_name`` (see ``FileNames``), or without one to that of its ``image_id``,
    which may then also be the file's name as text (ultralytics). Beside a ``file_name``, ``image_id`` may also be text
    or the number in that name, as divdet detect writes it without annotations; any other number must be the image's id.
    Entries without a ``bbox`` have the box around their ``segmentation``. An empty list is a valid file.

    Raises:
        UserError: for a file that is not a COCO results file, and for entries that are malformed, contradict
            themselves, or are of images or categories that ``annotations`` does not list.
    """
    path, lookup = Path(results_path), _Lookup(annotations)
    files = label_files(path)
    rows = read_yolo_results(files, annotations, lookup.names) if files else _read_file(path, annotations, lookup)
    results = Results(*columns_of(rows, score=np.float64))
    if repeats := count_repeats(*vars(results).values()):
        held = f"{counted(repeats, 'detection')} equal in everything to another one"
        print(f"note: {path} has {held}: each counts once more")
    if len(results) > 1 and results.score.min() == results.score.max():
        print(f"note: {path} gives all {len(results)} detections the score {results.score[0]:g}, which ranks nothing")
    return results


def _read_file(path: Path, annotations: CocoAnnotations, lookup: _Lookup) -> list[Row]:
    masks = 0

    def read(entry: dict[str, Any]) -> Row:
        nonlocal masks
        image, label = lookup.image(entry), lookup.label(entry)
        if not entry.get("bbox") and entry.get("segmentation"):  # as pycocotools takes masks alone
            entry = entry | {"bbox": box_around(entry["segmentation"])}
            check_mask(entry["segmentation"], annotations.images[image])
            masks += 1
        bbox = bbox_of(entry)
        if bbox[2] < 0 or bbox[3] < 0:
            raise Fault(f"has bbox {show(bbox)} of negative size; COCO boxes are x, y, width, height")
        if "score" not in entry:
            raise Fault("has no score")
        if not is_number(entry["score"]):
            raise Fault(f"has score {show(entry['score'])}, which is not a finite number")
        return image, label, bbox, entry["score"]

    try:
        content = read_json(path)
    except UserError as error:
        if path.suffix.lower() in (".json", ".gz") or not path.exists():
            raise
        raise UserError(
            f"{path}: is no COCO results file, a .json: mmdetection writes one by CocoMetric's outfile_prefix, "
            "ultralytics by val(save_json=True); or give the folder that yolo predict save_txt save_conf writes"
        ) from error
    if isinstance(content, dict):
        held = ", ".join(show(key) for key in list(content)[:3]) or "nothing"
        form = "COCO results are [{image_id, category_id, bbox, score}, …]"
        raise UserError(f"{path}: detections is an object, not a list: {form}; this file holds {held}")
    rows = read_entries(path, "detections", content, read)
    if masks:
        print(f"{path}: {counted(masks, 'box', 'boxes')} computed from segmentations")
    if lookup.names.by_base:
        print(f"{path}: {lookup.names.describe_by_base()}")
    if lookup.renumbered:
        print(f"{path}: images are matched by the names of their files; image_id differs from {annotations.path}")
    if lookup.may_be_numbers():
        print(
            f"note: {path} names images by image_id alone, taken as the ids of {annotations.path}: if they are the "
            "numbers in the file names, which are others there, give each entry its file_name"
        )
    return rows


def save_results(results: Results, annotations: CocoAnnotations, path: Path) -> None:
    """Write a COCO results file atomically, entry by entry: the text is never in memory as a whole.

    Detections of classes that the ground truth does not list have no category id there, and are left out.
    """
    known = [image_of(image, annotations.named) for image in annotations.images]
    encode = json.JSONEncoder(allow_nan=False).encode  # json.dumps would make an encoder for every entry

    def write(temporary: Path) -> None:
        images, labels, scores = (column.tolist() for column in (results.image, results.label, results.score))
        with open(temporary, "w", encoding="utf-8") as file:
            separator = "["
            for image, label, bbox, score in zip(images, labels, results.bbox, scores, strict=True):
                if annotations.category_ids[label] is None:
                    continue
                entry = known[image] | {"category_id": annotations.category_ids[label]}
                file.write(separator + encode(entry | {"bbox": bbox.tolist(), "score": score}))
                separator = ", "
            file.write("[]" if separator == "[" else "]")

    write_atomically(path, write)


def image_of(image: ImageRecord, named: bool) -> dict[str, Any]:
    """What a result says of its image: the id, or where images are ``named`` the number or text that is its name."""
    if not named:
        return {"image_id": image.id}
    number = number_in_name(image.file_name)
    return {"image_id": PurePath(image.file_name).stem if number is None else number, "file_name": image.file_name}


class _Lookup:
    """Finds the index of a results entry's image, and the label of its category."""

    def __init__(self, annotations: CocoAnnotations) -> None:
        self.names = FileNames(annotations)
        self.renumbered = False  # whether an image_id differed from the annotations'
        self._by_id: set[int] = set()  # of images that an id alone has told
        self._annotations = annotations
        self._images = {image.id: index for index, image in enumerate(annotations.images)}
        self._labels = {category_id: label for label, category_id in enumerate(annotations.category_ids)}
        self._by_name = cache(self._by_name)  # an image has many entries
        self._by_text = cache(self._by_text)

    def image(self, entry: dict[str, Any]) -> int:
        name, image_id = entry.get("file_name"), entry.get("image_id")
        if name is None and isinstance(image_id, str):
            return self._by_text(image_id)
        if name is None:
            image = self._images.get(_id_of(entry, "image_id"))
            if image is None:
                truth = self._annotations.path
                raise Fault(f"has image_id {image_id}, which {truth} does not list; score against its own images")
            self._by_id.add(image)
            return image
        if not isinstance(name, str):
            raise Fault(f"has file_name {show(name)}, which is not text")
        if type(image_id) not in (int, str, type(None)):
            raise Fault(f"has image_id {show(image_id)}, which is not an integer")
        return self._by_name(name, image_id)

    def may_be_numbers(self) -> bool:
        """Whether all ids that alone told images are numbers in file names, too, and most of them those of others."""
        images = self._annotations.images
        numbers = {number_in_name(image.file_name): index for index, image in enumerate(images)}
        named = [numbers.get(images[i].id) for i in self._by_id]
        return None not in named and 2 * sum(map(int.__ne__, named, self._by_id)) > len(named)

    def _by_text(self, text: str) -> int:
        """The image of an ``image_id`` that is text: a number, or the name of the file (ultralytics)."""
        by_id, named = self._images.get(plain_number(text)), self.names.of_stem(text)
        fits = {*named, *([] if by_id is None else [by_id])}
        if len(fits) != 1:
            what = "fits several images by id or name" if fits else "is neither id nor name of an image"
            raise Fault(f"has image_id {show(text)}, which {what} of {self._annotations.path}; give its file_name")
        self.renumbered |= by_id is None
        return fits.pop()

    def _by_name(self, name: str, image_id: int | str | None) -> int:
        number = number_in_name(image_id) if isinstance(image_id, str) else image_id
        index = self.names.find(name, number)
        own = self._annotations.images[index].id
        if number not in (own, number_in_name(name), None):
            raise Fault(
                f"has image_id {show(image_id)} and file_name {show(name)}, which contradict each other: "
                f"that file is image {own} of {self._annotations.path}"
            )
        self.renumbered |= image_id not in (own, None, PurePath(name).stem)
        return index

    def label(self, entry: dict[str, Any]) -> int:
        category_id, truth = _id_of(entry, "category_id"), self._annotations
        label = self._labels.get(category_id)
        if label is None:
            raise Fault(f"has category_id {category_id}, which {truth.path} does not list; use its category ids")
        name = entry.get("category")  # written by divdet detect
        if name is not None and name != truth.names[label] and category_name(name) in truth.names:
            named = f"has category_id {category_id} and category {show(name)}"
            raise Fault(f"{named}, which has another id in {truth.path}")
        return label


def _id_of(entry: dict[str, Any], key: str) -> int:
    """The id under ``key``, also of a tool that writes 3.0 or "3"."""
    if type(entry.get(key)) in (float, str):
        entry = {key: plain_number(entry[key])}
    return id_of(entry, key)
