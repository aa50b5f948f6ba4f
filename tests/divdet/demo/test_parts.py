"""What the page shows, without the page: kept outputs beside ``Detector.predict``, controls, images as uploaded."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detection import Detector
from detection.models.head import create_detector
from detection.prediction_settings import PostprocessSettings
from divdet.demo.controls import FIELDS, settings_of, why_idle
from divdet.demo.examples import spread
from divdet.demo.outputs import Outputs, find, run
from divdet.demo.sessions import Sessions
from divdet.demo.uploads import read_upload
from divdet.engine.errors import UserError


@pytest.mark.parametrize("head", ["ssd300", "fcos"])
def test_kept_outputs_give_what_predict_gives(head: str) -> None:
    torch.manual_seed(1)
    model = create_detector(head, "resnet10_16", 3, 2, 128 if head == "fcos" else None)
    names, ids, device = ["a", "b"], [1, 2], torch.device("cpu")
    base = PostprocessSettings(score_threshold=1e-4)
    detector = Detector(model, names, ids, base, device)
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    outputs = run(detector, image)
    values = dict(zip(FIELDS, (0.5, "wbf", 0.5, "avg", [], 1e-4, 50, False), strict=True))
    for change in (
        {},
        {"nms_iou": 0.2, "fusion_conf": "max"},
        {"fusion_method": "soft_nms", "classes": ["b"]},
        {"fusion_iou": 0.3, "class_agnostic": True, "candidates_per_class": 5.0},
    ):
        settings = settings_of(base, list((values | change).values()))
        found, seconds = find(detector, outputs, settings, 1e-3)
        expected = Detector(model, names, ids, settings, device).predict(image, 1e-3)
        assert len(expected)
        assert found == expected
        assert found.members == expected.members
        assert seconds > 0


def test_controls_that_cannot_act_say_why() -> None:
    assert why_idle(2, False, "wbf") == {}
    assert set(why_idle(1, False, "wbf")) == {"fusion_method", "fusion_iou", "fusion_conf"}
    assert set(why_idle(2, True, "soft_nms")) == {
        *["nms_iou", "score_threshold", "candidates_per_class"],
        "fusion_iou",
        "fusion_conf",
    }


def test_memory_of_sessions_is_bounded() -> None:
    part = torch.zeros(1000)
    outputs = Outputs(np.zeros((1, 1, 3), np.uint8), np.ones(4), _seen(), (part,), 0, 0)
    sessions = Sessions(most_bytes=3 * outputs.bytes)
    for number in range(5):
        sessions.put(str(number), "image", outputs)
        sessions.get("0", "image")
    assert [number for number in range(5) if sessions.get(str(number), "image")] == [0, 3, 4]
    assert sessions.get("0", "another image") is None
    sessions.drop("0")
    assert [number for number in range(5) if sessions.get(str(number), "image")] == [3, 4]


def _seen() -> Any:
    from detection.detector import Seen

    return Seen(np.zeros((1, 1, 3), np.uint8), (1, 1), None)


def _png(mode: str, size: tuple[int, int] = (20, 10), form: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    Image.new(mode, size, 200 if mode in ("L", "I;16") else None).save(data, form, **options)
    return data.getvalue()


def _header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + end


_TURNED = Image.Exif()
_TURNED[274] = 6


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        (_png("RGB", (1, 1)), (1, 1, 3)),
        (_png("CMYK", form="JPEG"), (10, 20, 3)),
        (_png("I;16"), (10, 20, 3)),
        (_png("RGBA"), (10, 20, 3)),
        (_png("P"), (10, 20, 3)),
        (_png("RGB", form="JPEG", exif=_TURNED), (20, 10, 3)),
        (_png("RGB", form="WEBP"), (10, 20, 3)),
    ],
    ids=["one pixel", "CMYK", "16 bits", "alpha", "palette", "turned by EXIF", "WebP"],
)
def test_images_are_read_as_predict_reads_them(data: bytes, shape: tuple[int, ...], tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(data)
    image = read_upload(tmp_path / "photo.jpg", 50_000_000, True)
    assert image.shape == shape
    torch.manual_seed(0)
    detector = Detector(
        create_detector("ssd300", "resnet10_16", 2, 1), ["a"], [1], PostprocessSettings(), torch.device("cpu")
    )
    assert find(detector, run(detector, image), detector.settings, 0.4)[0] == detector.predict(
        tmp_path / "photo.jpg", 0.4
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"text", "not an image"),
        (b"", "is empty"),
        (_png("RGB", (300, 300))[:200], "cut off"),
        (_png("RGB", (300, 300), "JPEG")[:400], "not an image, or one that is damaged or cut off"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (
            b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 12000 +X 15000\n",
            "not an image",
        ),
        (_header(10_000, 6_000), "more than 50000000 pixels"),
        (_header(2**31 - 1, 2**31 - 1), "more than 50000000 pixels"),
        (None, "choose it again"),
    ],
    ids=["text", "empty", "truncated PNG", "truncated JPEG", "HEIC", "radiance", "large", "bomb", "gone"],
)
def test_what_cannot_be_read_is_one_line(data: bytes | None, said: str, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / "photo.jpg").write_bytes(data)
    with pytest.raises(UserError, match=f"photo.jpg.*{said}") as error:
        read_upload(tmp_path / "photo.jpg", 50_000_000, True)
    assert str(tmp_path) not in str(error.value)  # visitors need not know the server's folders


def test_examples_are_taken_from_all_over() -> None:
    files = [Path(str(number)) for number in range(30)]
    assert [int(str(file)) for file in spread(files, 3)] == [0, 10, 20]
    assert spread(files[:2], 3) == files[:2]
