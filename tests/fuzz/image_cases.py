"""Image files, .npz data sets and image folders."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
import zlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from classification.data.datasets import default_image_size, load_training_images
from classification.data.views import EvaluationViews, TrainingViews
from classification.settings import DataSettings
from detection.heads import Input
from detection.images import read_image
from detection.preprocess import to_input
from tests.fuzz.mutation import TEXTS, damaged

NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def valid_images() -> dict[str, bytes]:
    """A small image in every form that folders hold, by name."""
    rgb, rgba = Image.fromarray(NOISE[..., :3]), Image.fromarray(NOISE)
    wide = Image.fromarray(NOISE[..., :2].copy().view("<u2")[..., 0])
    turned = Image.Exif()
    turned[0x0112], turned[0x010F] = 6, "maker"
    extras = {"exif": turned, "icc_profile": bytes(range(256)) * 2}
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    return {
        "jpeg": encoded(rgb, "JPEG", **extras),
        "progressive.jpeg": encoded(rgb, "JPEG", progressive=True, optimize=True),
        "gray.jpeg": encoded(rgb.convert("L"), "JPEG"),
        "cmyk.jpeg": encoded(rgb.convert("CMYK"), "JPEG"),
        "png": encoded(rgb, "PNG", **extras),
        "alpha.png": encoded(rgba, "PNG"),
        "palette.png": encoded(rgb.quantize(16), "PNG", transparency=3),
        "wide.png": encoded(wide, "PNG"),
        "line.png": encoded(Image.new("RGB", (60_000, 1)), "PNG"),
        "one.png": encoded(rgb.convert("1"), "PNG"),
        "animated.png": encoded(rgb, "PNG", **frames),
        "webp": encoded(rgb, "WEBP", **extras),
        "lossless.webp": encoded(rgba, "WEBP", lossless=True),
        "animated.webp": encoded(rgb, "WEBP", **frames),
        "bmp": encoded(rgb, "BMP"),
        "palette.bmp": encoded(rgb.quantize(16), "BMP"),
        "gif": encoded(rgb.quantize(16), "GIF"),
        "animated.gif": encoded(rgb.quantize(16), "GIF", save_all=True, append_images=[rgb.quantize(8)]),
        "tiff": encoded(rgb, "TIFF"),
        "lzw.tiff": encoded(rgba, "TIFF", compression="tiff_lzw"),
        "deflate.tiff": encoded(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tiff": encoded(rgb, "TIFF", compression="jpeg"),
        "cmyk.tiff": encoded(rgb.convert("CMYK"), "TIFF"),
        "wide.tiff": encoded(wide, "TIFF"),
        "float.tiff": encoded(Image.fromarray(NOISE[..., 0].astype(np.float32)), "TIFF"),
        "fax.tiff": encoded(rgb.convert("1"), "TIFF", compression="group4"),
    }


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Names and contents of a PNG file's chunks."""
    chunks, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG file of chunks, with right lengths and checksums."""
    parts = [
        len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big") for name, body in chunks
    ]
    return b"".join([b"\x89PNG\r\n\x1a\n", *parts])


def _changed_png(draw: Random, data: bytes) -> bytes:
    """A PNG file whose chunks are changed under right checksums."""
    chunks = png_chunks(data)
    at = draw.randrange(len(chunks))
    name, body = chunks[at]
    match draw.randrange(6):
        case 0:
            chunks[at] = name, damaged(draw, body)
        case 1:
            head = bytearray(chunks[0][1])
            head[:8] = b"".join(
                draw.choice((0, 1, 20, 70_000, 2**20, 2**31 - 1, 2**32 - 1)).to_bytes(4, "big") for _ in "wh"
            )
            chunks[0] = b"IHDR", bytes(head)
        case 2:
            head = bytearray(chunks[0][1])
            head[8 + draw.randrange(5)] = draw.choice((0, 1, 2, 3, 4, 6, 7, 8, 16, 32, 255))
            chunks[0] = b"IHDR", bytes(head)
        case 3:
            text = b"XML:com.adobe.xmp\0" + zlib.compress(bytes(10**6))
            extra = [
                (b"iCCP", b"a\0\0" + zlib.compress(bytes(draw.choice((1, 128, 10**6))))),
                (b"eXIf", NOISE.tobytes()),
            ]
            extra += [(b"zTXt", text), (b"PLTE", bytes(draw.choice((0, 3, 4, 768, 771)))), (b"tRNS", bytes(300))]
            extra += [(b"acTL", b"\xff" * 8), (b"fcTL", b"\xff" * 26), (b"IDAT", b""), (b"gAMA", bytes(4))]
            chunks.insert(draw.randrange(len(chunks)), draw.choice(extra))
        case 4:
            chunks[at] = b"IDAT", zlib.compress(bytes(draw.choice((0, 5, 10**5))))
        case 5:
            chunks[at : at + 1] = [chunks[at]] * draw.choice((0, 2, 500))
    return png(chunks)


def _changed_jpeg(draw: Random, data: bytes) -> bytes:
    """A JPEG file with another size, or another segment behind its start."""
    if draw.randrange(2):
        at = next(data.find(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in data)
        sides = b"".join(draw.choice((0, 1, 8, 64_000, 65_535)).to_bytes(2, "big") for _ in "hw")
        return data[: at + 5] + sides + data[at + 9 :]
    body = damaged(
        draw, draw.choice((b"Exif\0\0II*\0\x08\0\0\0", b"Exif\0\0", b"ICC_PROFILE\0\1\1", b"Adobe\0")) + NOISE.tobytes()
    )
    segment = bytes((0xFF, draw.choice((0xE0, 0xE1, 0xE2, 0xEE, 0xFE, 0xDB, 0xC4, 0xDD, 0xDA))))
    return data[:2] + segment + (len(body) + 2).to_bytes(2, "big") + body + data[2:]


def hostile_image(draw: Random, valid: dict[str, bytes]) -> bytes:
    """A changed image."""
    name = draw.choice(list(valid))
    if name.endswith("png") and draw.randrange(3):
        return _changed_png(draw, valid[name])
    if name.endswith("jpeg") and draw.randrange(2):
        return _changed_jpeg(draw, valid[name])
    return damaged(draw, valid[name], valid[draw.choice(list(valid))])


class Images:
    """Image files, down to a network's input."""

    names = ("case.png", "images[0]")

    def __init__(self, root: Path) -> None:
        self.path, self.valid = root / "case.png", valid_images()
        (root / "outside.png").write_bytes(self.valid["png"])

    def write(self, draw: Random) -> None:
        """The next case."""
        self.path.write_bytes(hostile_image(draw, self.valid))

    def read(self) -> None:
        """Reads it as detection does, both ways."""
        stored = read_image(self.path)
        for image in (stored, read_image(self.path, size=stored.shape[1::-1]), read_image(self.path, orient=True)):
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3
            assert image.flags["C_CONTIGUOUS"]
            assert to_input(image, Input()).shape == (300, 300, 3)


def _views(settings: DataSettings) -> None:
    """Loads classification's images and takes views of some, in training and evaluation."""
    train, val = load_training_images(settings, seed=0)
    size = default_image_size(settings, train)
    views = TrainingViews(train, settings, size, 2, 0)
    plain = EvaluationViews(val, size, 1.15, "bicubic")
    for index in {0, len(train) // 2, len(train) - 1}:
        views[0, index]
        train.name(index)
    for index in {0, len(val) - 1}:
        plain[index]
    ", ".join(train.classes).encode()


_DTYPES = (
    "<U3",
    "|S3",
    "<u1",
    "<i2",
    ">i8",
    "<i8",
    "<u8",
    "<f4",
    "<c8",
    "|b1",
    "|O",
    "<M8[s]",
    "|V9",
    "<U99999999",
    "<f9",
)
_SHAPES = ((), (0,), (1,), (4,), (5,), (-1,), (5, 1), (10**6,), (10**12,), (10**30,), (2**62, 4), (1.5,), "no", [3])
_HEADERS = (
    b"{}",
    b"",
    b"{'descr': " + b"(" * 5000,
    b"[" * 9000,
    b"__import__('os').system('touch owned')",
    b"\xff\xfe",
)


def npy(draw: Random, array: np.ndarray) -> bytes:
    """An array as an .npy file that says other things of itself than it is."""
    facts: dict[str, Any] = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    for key in draw.sample(list(facts), draw.choice((0, 1, 2))):
        facts[key] = draw.choice({"descr": _DTYPES, "fortran_order": (True, 1, None), "shape": _SHAPES}[key])
    header = repr(facts).encode() if draw.randrange(8) else draw.choice(_HEADERS)
    version = draw.choice((b"\1\0", b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\4\0"))
    length = len(header).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + length + header + array.tobytes()


class Npz:
    """An .npz data set of encoded images, down to views."""

    names = ("case.npz",)

    def __init__(self, root: Path) -> None:
        self.path, self.images = root / "case.npz", valid_images()
        self.settings = DataSettings(dataset="npz", root=str(self.path))

    def _arrays(self, draw: Random) -> dict[str, np.ndarray]:
        arrays = {"classes": np.array(["cat", "dog", "owl"])}
        for split in ("train", "test"):
            files = [
                hostile_image(draw, self.images) if draw.randrange(9) == 0 else self.images["png"] for _ in range(4)
            ]
            arrays[f"{split}_bytes"] = np.frombuffer(b"".join(files), np.uint8)
            arrays[f"{split}_offsets"] = np.cumsum([0, *map(len, files)])
            arrays[f"{split}_labels"] = np.array([0, 1, 2, 0])
        return arrays

    def write(self, draw: Random) -> None:
        """The next case."""
        arrays = self._arrays(draw)
        for key in draw.sample(list(arrays), draw.choice((0, 1, 1, 2))):
            old = arrays[key]
            if old.dtype.kind == "i" and draw.randrange(2):
                arrays[key] = old.copy()
                arrays[key][draw.randrange(len(old))] = draw.choice((-1, 0, 1, 3, 10**6, 2**63 - 1, -(2**63)))
            else:
                others = (
                    old[::-1],
                    old[:-1],
                    old[:0],
                    old.astype("U3"),
                    old.reshape(1, -1),
                    np.zeros(4),
                    old.astype("S"),
                )
                arrays[key] = draw.choice(
                    (*others, old.astype(object), np.array("x"), old.astype("U3").astype("<U900"))
                )
        files = {}
        strange = draw.choice([*arrays, None])
        for key, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=True)
            files[f"{key}.npy"] = npy(draw, array) if key == strange and draw.randrange(2) else buffer.getvalue()
        if draw.randrange(10) == 0:
            files["../outside.npy"] = files["/tmp/outside.npy"] = b"x"
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        content = buffer.getvalue()
        if draw.randrange(4) == 0:  # the directory, which decides what is read, stands at the end
            tail = min(len(content), 400)
            content = content[:-tail] + damaged(draw, content[-tail:], content)
        self.path.write_bytes(content)

    def read(self) -> None:
        """Loads it and takes views."""
        _views(self.settings)


class Folder:
    """An image folder of classification, down to views."""

    names = ("data", "outside")

    def __init__(self, root: Path) -> None:
        self.root, self.images = root / "data", valid_images()
        (root / "outside.png").write_bytes(self.images["png"])

    def write(self, draw: Random) -> None:
        """The next case."""
        shutil.rmtree(self.root, ignore_errors=True)
        classes = ["cat", "dog"] if draw.randrange(3) else [self._name(draw), self._name(draw)]
        for split in ("train", "val"):
            for name in classes if draw.randrange(9) else classes[1:]:
                folder = self.root / split / name
                folder.mkdir(parents=True, exist_ok=True)
                for _ in range(draw.choice((1, 2, 3)) if draw.randrange(20) else 0):
                    stem = self._name(draw) if draw.randrange(3) == 0 else "a"
                    self._put(draw, folder / (stem + draw.choice((".png", ".png", ".JPG", ".txt"))))

    def _put(self, draw: Random, file: Path) -> None:
        if os.path.lexists(file):
            return
        match draw.randrange(30):
            case 0:
                file.symlink_to(draw.choice(("nowhere", file.name, "..", "/dev/null")))
            case 1:
                file.mkdir()
            case 6:
                os.mkfifo(file)
            case 2:
                file.write_bytes(b"")
            case 3 | 4 | 5:
                file.write_bytes(hostile_image(draw, self.images))
            case _:
                file.write_bytes(self.images[draw.choice(list(self.images))])

    @staticmethod
    def _name(draw: Random) -> str:
        names = [
            text
            for text in TEXTS
            if text and "/" not in text and "\0" not in text and text not in (".", "..", "\ud800")
        ]
        return draw.choice([text for text in names if len(text) < 250])

    def read(self) -> None:
        """Loads it and takes views."""
        _views(DataSettings(dataset="folder", root=str(self.root), image_size=32, auto_augment="rand"))
