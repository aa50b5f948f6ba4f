"""EXIF orientation: what a header says against what OpenCV does, and in which layout annotated photos are read."""

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.data.annotations import CocoAnnotations
from detection.data.coco import load_annotations
from detection.data.dataset import read_record
from detection.data.orientation import OPEN, SETTLED
from detection.images import read_image
from detection.settings import DataSettings, EvalDataSettings
from divdet.commands.settings import Detect
from divdet.engine.errors import UserError
from divdet.engine.exif import read_turned

WIDTH, HEIGHT = 40, 24
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


def encoded(kind: str, orientation: int | None = None, size: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    exif = Image.Exif()
    if orientation:
        exif[0x0112], exif[0x010F] = orientation, "maker"
    options = {"lossless": True} if kind == "WEBP" else {}
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).resize(size).save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def late_png() -> bytes:
    """Its eXIf stands behind the pixels."""
    turned, plain = encoded("PNG", 6), encoded("PNG")
    at, end = turned.index(b"eXIf") - 4, plain.rindex(b"IEND") - 4
    chunk = turned[at : at + 12 + int.from_bytes(turned[at : at + 4], "big")]
    return plain[:end] + chunk + plain[end:]


EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
PLAIN = encoded("JPEG")
ODD = {
    "big-endian": PLAIN[:2] + segment(0xE1, EXIF) + PLAIN[2:],
    "behind XMP and a profile": PLAIN[:2]
    + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")
    + segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000))
    + segment(0xE1, EXIF)
    + PLAIN[2:],
    "two": PLAIN[:2] + segment(0xE1, EXIF) + segment(0xE1, EXIF.replace(b"\x06", b"\x03")) + PLAIN[2:],
    "fill bytes": PLAIN[:2] + b"\xff\xff" + segment(0xE1, EXIF) + PLAIN[2:],
    "orientation 9": PLAIN[:2] + segment(0xE1, EXIF.replace(b"\x06", b"\x09")) + PLAIN[2:],
    "a maker's name that lies outside": PLAIN[:2]
    + segment(0xE1, EXIF[:14] + b"\0\x02\x01\x0f\0\x02\0\0\0\x32\0\0\x27\x0f" + EXIF[16:])
    + PLAIN[2:],
    "damaged byte order": PLAIN[:2] + segment(0xE1, EXIF.replace(b"MM", b"M?")) + PLAIN[2:],
    "cut off": PLAIN[:2] + segment(0xE1, EXIF[:20]) + PLAIN[2:],
    "PNG, behind the pixels": late_png(),
    "TIFF, which OpenCV turns always": encoded("TIFF", 6),
}
ODD |= {f"{kind} {number}": encoded(kind, number) for kind in ("JPEG", "PNG", "WEBP") for number in range(1, 9)}


@pytest.mark.parametrize("case", ODD)
def test_the_header_says_what_opencv_does(tmp_path: Path, case: str) -> None:
    (tmp_path / "image").write_bytes(ODD[case])
    stored, upright = read_image(ODD[case]), read_image(ODD[case], orient=True)
    header = read_turned(tmp_path / "image")
    turn = TURNED[header[0] if header else 1](stored)
    assert turn.shape == upright.shape
    assert (turn == upright).all()
    assert header is None or header[1:] == stored.shape[1::-1]


def test_other_files_have_no_orientation(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no image")
    cut = [b"", b"\xff\xd8", b"\xff\xd8\xff\xe1\0\0", ODD["big-endian"][:30], late_png()[:40]]
    for content in cut + [ODD["WEBP 6"][:end] for end in range(31)]:
        (tmp_path / "cut").write_bytes(content)
        assert read_turned(tmp_path / "cut") is None
    assert read_turned(tmp_path / "text") is read_turned(tmp_path) is read_turned(tmp_path / "absent") is None


def photos(
    folder: Path, orientation: str = "auto", *rows: tuple[int, tuple[int, int] | None, list[float]]
) -> CocoAnnotations:
    """Photos of 40 x 24 stored pixels: EXIF orientation, size in the annotations, box."""
    images, annotations = [], []
    for number, (exif, size, bbox) in enumerate(rows, 1):
        (folder / f"{number}.jpg").write_bytes(encoded("JPEG", exif))
        image = {"id": number, "file_name": f"{number}.jpg"}
        images.append(image | (dict(zip(("width", "height"), size, strict=True)) if size else {}))
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": bbox})
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "truth.json").write_text(json.dumps(data))
    return load_annotations(folder / "truth.json", folder, orientation)


STORED, UPRIGHT, INSIDE, LOW, RIGHT = (40, 24), (24, 40), [1, 1, 9, 9], [1, 20, 9, 15], [20, 1, 15, 9]
LAYOUTS = {
    "no evidence": ([(3, STORED, INSIDE), (6, None, INSIDE), (6, STORED, INSIDE)], [True, True, True], {OPEN: 3}),
    "an upright size": ([(3, STORED, INSIDE), (6, UPRIGHT, INSIDE)], [True, True], {SETTLED.format("upright"): 1}),
    "a box that only the upright photo holds": (
        [(3, STORED, INSIDE), (6, STORED, LOW), (6, STORED, INSIDE)],
        [True, True, True],
        {SETTLED.format("upright"): 3},
    ),
    "a box that only the stored photo holds": (
        [(3, STORED, INSIDE), (6, STORED, RIGHT), (8, None, INSIDE)],
        [False, False, False],
        {SETTLED.format("as stored"): 3},
    ),
    "a majority, but for one of upright size": (
        [(3, STORED, INSIDE), (6, STORED, RIGHT), (8, STORED, RIGHT), (6, UPRIGHT, INSIDE)],
        [False, False, False, True],
        {SETTLED.format("as stored"): 3},
    ),
    "nothing turned": ([(1, STORED, RIGHT), (1, None, LOW)], [False, False], {}),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_auto_follows_sizes_then_boxes_of_the_whole_file(tmp_path: Path, case: str) -> None:
    rows, upright, counted = LAYOUTS[case]
    annotations = photos(tmp_path, "auto", *rows)
    assert [record.upright for record in annotations.images] == upright
    assert {key: count for key, count in annotations.counts.items() if "EXIF" in key} == counted
    for record in annotations.images:
        expected = read_image(record.path, orient=record.upright)
        np.testing.assert_array_equal(read_record(record), expected)
        assert record.width is None or (record.width, record.height) == expected.shape[1::-1]


@pytest.mark.parametrize("orientation", ["upright", "stored"])
def test_the_setting_decides_and_boxes_are_cut_at_the_border_that_is_read(tmp_path: Path, orientation: str) -> None:
    rows = [(6, size, [20, 20, 15, 15]) for size in (STORED, UPRIGHT, None)]
    annotations = photos(tmp_path, orientation, *rows, (3, STORED, INSIDE))
    width, height = STORED if orientation == "stored" else UPRIGHT
    for record in annotations.images[:3]:
        assert (record.upright, record.width, record.height) == (orientation == "upright", width, height)
        assert record.boxes.tolist() == [[20, 20, min(35, width), min(35, height)]]
        assert read_record(record).shape == (height, width, 3)
    np.testing.assert_array_equal(
        read_record(annotations.images[3]), read_image(tmp_path / "4.jpg", orient=orientation == "upright")
    )
    assert not any("EXIF" in key for key in annotations.counts)


def test_a_third_size_is_refused_as_of_any_image(tmp_path: Path) -> None:
    annotations = photos(tmp_path, "auto", (6, (25, 40), INSIDE))
    with pytest.raises(UserError, match=r"1\.jpg: the image has 40x24 pixels, but its annotations say 25x40"):
        read_record(annotations.images[0])


@pytest.mark.parametrize("settings", [EvalDataSettings, DataSettings])
def test_the_setting_is_checked(settings: type) -> None:
    with pytest.raises(UserError, match=r"data\.orientation is 'up': choose one of auto, upright, stored"):
        settings(orientation="up")
    with pytest.raises(UserError, match=r"data\.val_images is set without"):
        Detect(data=EvalDataSettings(val_images="x"))
