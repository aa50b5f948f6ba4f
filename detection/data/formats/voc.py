"""Pascal VOC: an XML file for each image, with the corners of each object in pixels.

Pascal VOC counts pixels from 1 and includes the last one, so a box that covers a whole image of 500 pixels goes from 1
to 500; other tools (CVAT, Label Studio) count from 0, up to the border. See ``voc_origin``.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from detection.data.entry_values import show
from detection.data.faults import DataFault
from detection.data.formats.class_names import class_list
from detection.data.formats.content import Content
from detection.data.formats.folders import (
    Source,
    images_in,
    named_images,
    parallel,
    relative_name,
    voc_annotations,
    xml_files,
)
from detection.data.formats.text_files import read_text
from detection.data.formats.voc_origin import told_origin
from detection.data.formats.voc_xml import VocFile, read_voc_file
from detection.data.image_index import index_images
from detection.settings import VocOrigin
from divdet.engine.errors import UserError
from divdet.engine.exif import read_turned

DIFFICULT = "objects marked difficult, which are ignored"
UNANNOTATED = "images without an XML file, which are left out"
OTHER_NAME = "XML files that name another image than the one of their own name, which is taken"


def read_voc(
    source: Source, others: Iterable[Source], origin: VocOrigin, faults: list[DataFault], need_images: bool = True
) -> Content:
    """Reads a split; faulty entries are added to ``faults`` and left out.

    Args:
        source: the split.
        others: further splits of the same data, which share its list of classes and the origin of its coordinates.
        origin: see ``detection.settings.EvalDataSettings``.
        faults: receives the faults.
        need_images: whether an image that is not there is a fault.

    Raises:
        UserError: where there are no XML files, or a list of classes cannot be used.
    """
    counts: Counter[str] = Counter()
    files = [file for path in _files(source, faults) if (file := read_voc_file(path, faults))]
    if not files and not faults:
        raise UserError(f"{source}: no XML files found")
    read = {file.path.absolute() for file in files}
    also = {path.absolute() for other in others if other.format == "voc" for path in _files(other, [])} - read
    every = [*files, *(file for path in sorted(also) if (file := read_voc_file(path, [])))]
    start, why = told_origin(every) if origin == "auto" else (int(origin), "by data.voc_origin")
    labels = _labels(source, every)
    images = _find_images(source, files, counts)
    known, entries, annotations = {}, [], []
    for file in files:
        if path := images.get(file.path):
            known[file.path] = path
        elif need_images or not all(file.size):
            name = file.named[0] if file.named else file.path.stem
            faults.append(DataFault(str(file.path), "", f"has no image {show(name)} in {_folders(source)[0]}"))
        else:
            known[file.path] = file.path.with_name(_base_name(file))
    files = [file for file in files if file.path in known]
    if not files:
        return Content({"images": [], "annotations": [], "categories": _categories(labels)}, source.path, counts)
    folder, names = named_images(list(known.values()))
    order = {path: number for number, path in enumerate(names)}
    files.sort(key=lambda file: order[known[file.path]])
    facts = index_images(known[file.path] for file in files if not all(file.size))
    for image_id, file in enumerate(files):
        size = file.size
        if not all(size):
            of_image = facts[known[file.path]]
            if of_image.fault:
                faults.append(DataFault(str(known[file.path]), "", of_image.fault))
                continue
            # Of a rotated image the boxes tell in which layout it was annotated; a size would decide that here.
            turned = need_images and read_turned(known[file.path])
            size = (None, None) if turned else of_image.upright
        where = {"file": str(file.path)}
        entries.append(
            {"id": image_id, "file_name": names[known[file.path]], "width": size[0], "height": size[1], **where}
        )
        for found in file.objects:
            if found.name not in labels:
                what = f"has name {show(found.name)}, which the list of classes has not: {', '.join(list(labels)[:9])}"
                faults.append(DataFault(str(file.path), found.place, what))
                continue
            x1, y1, x2, y2 = found.corners
            bbox = [float(x1 - start), float(y1 - start), float(x2 - x1 + start), float(y2 - y1 + start)]
            entry = {"image_id": image_id, "category_id": labels[found.name], "bbox": bbox}
            annotations.append(entry | {"iscrowd": int(found.difficult), "place": found.place, **where})
    counts[f"boxes whose coordinates count from {start}, {why}"] = len(annotations)
    counts[DIFFICULT] = sum(entry["iscrowd"] for entry in annotations)
    data = {"images": entries, "annotations": annotations, "categories": _categories(labels)}
    return Content(data, folder, +counts)


def _files(source: Source, faults: list[DataFault]) -> list[Path]:
    """The XML files of a source: all, or those that a list of ImageSets/Main names."""
    folder = voc_annotations(source.path)
    if not source.split:
        return sorted(xml_files(folder))
    listing, found = source.path / "ImageSets" / "Main" / f"{source.split}.txt", []
    for number, line in enumerate(read_text(listing).split("\n"), 1):
        name = line.strip()
        if not name:
            continue
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
            faults.append(DataFault(str(listing), f"line {number}", f"names {show(name)}, which leaves {folder}"))
            continue
        texts = (name, name.rsplit(None, 1)[0], name.rsplit(".", 1)[0])  # also "NAME 1" and NAME.jpg
        files = [file for text in texts if os.path.isfile(file := folder / f"{text}.xml")]
        if files:
            found.append(files[0])
        else:
            faults.append(DataFault(str(listing), f"line {number}", f"names {show(name)}, which has no XML file"))
    return list(dict.fromkeys(found))


def _base_name(file: VocFile) -> str:
    """What a file calls its image, without folders; its own name where that is no file's name."""
    name = PurePosixPath(file.named[0].replace("\\", "/")).name if file.named else ""
    return name if name not in ("", "..") else file.path.stem


def _labels(source: Source, files: Sequence[VocFile]) -> dict[str, int]:
    """Category ids by name, from 1: in the order of a list of classes beside the files, else of the alphabet."""
    if listed := class_list(voc_annotations(source.path), yolo=False):
        names, file = listed
        if len(set(names)) < len(names):
            raise UserError(f"{file}: lists a class twice: keep it once")
    else:
        names = sorted({found.name for file in files for found in file.objects})
    return {name: number for number, name in enumerate(names, 1)}


def _categories(labels: dict[str, int]) -> list[dict]:
    return [{"id": number, "name": name} for name, number in labels.items()]


def _folders(source: Source) -> list[Path]:
    """Where the images may be, the likeliest first."""
    if source.images:
        return [source.images]
    inner = voc_annotations(source.path)
    places = [inner.parent / name for name in ("JPEGImages", "images", "Images")] if inner != source.path else []
    for base in (inner, inner.parent):  # images/train for Annotations/train, or images alone
        places += [parallel(base, "Annotations", "JPEGImages"), parallel(base, "Annotations", "images")]
    return list({place.resolve(): place for place in [*places, inner] if place and place.is_dir()}.values())


def _find_images(source: Source, files: Sequence[VocFile], counts: Counter[str]) -> dict[Path, Path]:
    """The image of each XML file: the one of its own name, else the one that it names."""
    inner = voc_annotations(source.path)
    by_stem: dict[str, list[Path]] = {}
    by_name: dict[str, Path] = {}
    for folder in _folders(source):
        for path in sorted(images_in(folder)):
            name = relative_name(path, folder)
            by_stem.setdefault(name.rpartition(".")[0], []).append(path)
            by_name.setdefault(name, path)
            by_name.setdefault(path.name, path)
    found: dict[Path, Path] = {}
    for file in files:
        named = [text.replace("\\", "/") for text in file.named]
        given = [by_name[text] for name in named for text in (name, name.rpartition("/")[2]) if text in by_name]
        own = by_stem.get(relative_name(file.path, inner).rpartition(".")[0], [])
        own = [path for path in own if path in given] or own
        if own or given:
            found[file.path] = (own or given)[0]
        counts[OTHER_NAME] += bool(own and named and Path(named[0]).stem != own[0].stem)
    if not source.split:
        counts[UNANNOTATED] = len(set(by_name.values()) - set(found.values()))
    return found
