"""One XML file of Pascal VOC: an image's size and its objects."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from detection.category_names import category_name
from detection.data.entry_values import MAX_COORDINATE, Fault, show
from detection.data.faults import DataFault
from divdet.engine.files import refuse_special

_MAX_SIZE = 2**24  # bytes
_MAX_DEPTH = 100
_MAX_NUMBER = 30  # characters
_PASCAL = re.compile(r"The VOC\d{4} Database")
_TRUE, _FALSE = ("1", "true", "yes"), ("", "0", "false", "no", "unspecified")


class VocObject(NamedTuple):
    """An object.

    Attributes:
        corners: xmin, ymin, xmax, ymax as written; decimal, so that differences are exact.
        place: where it is in the file.
    """

    name: str
    corners: tuple[Decimal, Decimal, Decimal, Decimal]
    difficult: bool
    place: str


class VocFile(NamedTuple):
    """A file.

    Attributes:
        size: width and height; (0, 0) where it has none.
        named: what it calls its image: by name, by path.
        pascal: whether it is one of Pascal VOC's own.
    """

    path: Path
    size: tuple[int, int]
    named: tuple[str, ...]
    pascal: bool
    objects: list[VocObject]


def read_voc_file(path: Path, faults: list[DataFault]) -> VocFile | None:
    """Reads a file; what is wrong is added to ``faults`` and left out. None where it cannot be read at all."""
    try:
        root, lines = _parse(path)
    except Fault as fault:
        faults.append(DataFault(str(path), "", str(fault)))
        return None
    objects = []
    for number, element in enumerate(root.findall("object"), 1):
        place = f"object {number} (line {lines[element]})"
        try:
            objects.append(_object(element, place))
        except Fault as fault:
            faults.append(DataFault(str(path), place, str(fault)))
    size = _side(root, "width"), _side(root, "height")
    named = tuple(text for key in ("filename", "path") if (text := (root.findtext(key) or "").strip()))
    pascal = _PASCAL.fullmatch((root.findtext("source/database") or "").strip()) is not None
    return VocFile(path, size if all(size) else (0, 0), named, pascal, objects)


def _parse(path: Path) -> tuple[Element, dict[Element, int]]:
    """The tree of a file, and the line of each element.

    A document type declaration is refused: entities could grow without limit or name other files, and no annotation
    needs one.
    """
    refuse_special(path)
    try:
        if path.stat().st_size > _MAX_SIZE:
            raise Fault("is larger than 16 MiB, which no annotation of an image is")
        data = path.read_bytes()
    except OSError as error:
        raise Fault(f"cannot be read: {error.strerror}") from error
    builder, parser = TreeBuilder(), expat.ParserCreate()
    lines: dict[Element, int] = {}
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise Fault("is nested too deeply")
        lines[builder.start(tag, attributes)] = parser.CurrentLineNumber

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def doctype(*_: object) -> None:
        raise Fault("has a document type declaration (<!DOCTYPE>), which is not read: remove it")

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise Fault(f"is not XML: {expat.ErrorString(error.code)} in line {error.lineno}") from error
    except (LookupError, ValueError) as error:  # an unknown encoding
        raise Fault(f"is not XML: {error}") from error
    root = builder.close()
    if root.tag != "annotation":
        cvat = "; it looks like CVAT's own XML: export as COCO, YOLO or Pascal VOC" if root.tag == "annotations" else ""
        raise Fault(f"is no Pascal VOC annotation: its root is <{root.tag}>, not <annotation>{cvat}")
    return root, lines


def _object(element: Element, place: str) -> VocObject:
    text = element.findtext("name")
    name = category_name(text)
    if name is None:
        raise Fault("has no name" if not (text or "").strip() else f"has name {show(text)}, which is no name")
    box = element.find("bndbox")
    if box is None:
        raise Fault("has no bndbox")
    corners = tuple(_number(box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
    if corners[2] < corners[0] or corners[3] < corners[1]:
        raise Fault(f"has a bndbox whose end is before its start: {' '.join(map(str, corners))} (x y of both corners)")
    difficult = (element.findtext("difficult") or "").strip().lower()
    if difficult not in (*_TRUE, *_FALSE):
        raise Fault(f"has difficult {show(difficult)}, which is neither 0 nor 1")
    return VocObject(name, corners, difficult in _TRUE, place)


def _number(box: Element, key: str) -> Decimal:
    text = box.findtext(key)
    if text is None:
        raise Fault(f"has a bndbox without {key}")
    value = _decimal(text.strip())
    if value is None:
        raise Fault(f"has {key} {show(text.strip())}, which is no number")
    if not -MAX_COORDINATE <= value <= MAX_COORDINATE:
        raise Fault(f"has {key} {show(text.strip())}, which is no finite number of pixels")
    return value


def _side(root: Element, key: str) -> int:
    """Width or height; 0 where it is missing or no size, as in files that were written without the image."""
    value = _decimal((root.findtext(f"size/{key}") or "").strip())
    usable = value is not None and 0 < value <= MAX_COORDINATE and value == value.to_integral_value()
    return int(value) if usable else 0


def _decimal(text: str) -> Decimal | None:
    """The number that a text is, infinite for NaN; None for other texts, and for what no tool writes.

    Only comparisons are safe until its range is known: 1e9999999 has ten million digits as a whole number.
    """
    if len(text) > _MAX_NUMBER or "_" in text:
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return Decimal("Infinity") if value.is_nan() else value
