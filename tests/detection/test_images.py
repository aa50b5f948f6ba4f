"""Decoding against Pillow, damaged files, and which files a source names."""

import io
import os
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from detection.images import as_rgb, read_image
from detection.sources import IMAGE_SUFFIXES, find_images
from divdet.engine.errors import UserError

HEIGHT, WIDTH = 37, 53
FORMATS = {"a.jpg": "JPEG", "a.png": "PNG", "a.webp": "WEBP", "a.bmp": "BMP", "a.tif": "TIFF", "a.gif": "GIF"}


def picture(mode: str = "RGB") -> Image.Image:
    """Smooth colours without symmetry."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    pixels = np.stack([x * 4, y * 6, 120 + 60 * np.sin(x / 9) * np.cos(y / 7)], axis=2).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_alpha() -> Image.Image:
    image = picture("RGBA")
    image.putalpha(picture("L"))
    return image


def see_through_palette() -> Image.Image:
    image = picture().quantize(32)
    image.info["transparency"] = 3
    return image


ENCODED = {
    "colour JPEG": lambda: encoded(picture(), "JPEG", quality=95),
    "progressive JPEG": lambda: encoded(picture(), "JPEG", progressive=True),
    "gray JPEG": lambda: encoded(picture("L"), "JPEG"),
    "CMYK JPEG": lambda: encoded(picture("CMYK"), "JPEG", quality=95),
    "CMYK TIFF": lambda: encoded(picture("CMYK"), "TIFF"),
    "gray PNG": lambda: encoded(picture("L"), "PNG"),
    "one-bit PNG": lambda: encoded(picture("1"), "PNG"),
    "gray and alpha PNG": lambda: encoded(with_alpha().convert("LA"), "PNG"),
    "alpha PNG": lambda: encoded(with_alpha(), "PNG"),
    "palette PNG": lambda: encoded(picture().quantize(200), "PNG"),
    "see-through palette PNG": lambda: encoded(see_through_palette(), "PNG"),
    "WebP": lambda: encoded(picture(), "WEBP", lossless=True),
    "alpha WebP": lambda: encoded(with_alpha(), "WEBP", lossless=True, exact=True),
    "BMP": lambda: encoded(picture(), "BMP"),
    "palette BMP": lambda: encoded(picture("P"), "BMP"),
    "TIFF": lambda: encoded(picture(), "TIFF"),
    "compressed TIFF": lambda: encoded(picture(), "TIFF", compression="tiff_lzw"),
    "gray TIFF": lambda: encoded(picture("L"), "TIFF"),
    "GIF": lambda: encoded(picture().quantize(100), "GIF"),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_become_8_alike_in_files_and_pil_images(kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (HEIGHT, WIDTH), np.uint16)
    data = encoded(Image.fromarray(values), kind)
    expected = np.repeat(np.uint8(values >> 8)[..., None], 3, axis=2)
    assert np.array_equal(read_image(data), expected)
    for image in (Image.open(io.BytesIO(data)), Image.fromarray(values.astype(">u2"))):
        assert image.mode.startswith("I;16")
        assert np.array_equal(as_rgb(image, "it", bgr=False, orient=True), expected)


@pytest.mark.parametrize("kind", ENCODED)
def test_decodes_as_pillow_does(kind: str) -> None:
    data = ENCODED[kind]()
    image = read_image(data)
    assert image.dtype == np.uint8
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.flags["C_CONTIGUOUS"]
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    # Two decoders round colour conversion differently by a step or two.
    np.testing.assert_allclose(image.astype(int), expected.astype(int), atol=3)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_scaled(suffix: str, channels: int) -> None:
    deep = np.random.default_rng(0).integers(0, 2**16, (HEIGHT, WIDTH, channels), np.uint16)
    data = cv2.imencode(suffix, deep)[1].tobytes()
    expected = np.broadcast_to(deep if channels == 1 else deep[:, :, 2::-1], (HEIGHT, WIDTH, 3)) / 257
    np.testing.assert_allclose(read_image(data), expected, atol=1.01)


def test_files_and_bytes_read_the_same(tmp_path: Path) -> None:
    for name, kind in FORMATS.items():
        data = encoded(picture(), kind)
        (tmp_path / name).write_bytes(data)
        np.testing.assert_array_equal(read_image(tmp_path / name), read_image(data))
        np.testing.assert_array_equal(read_image(str(tmp_path / name)), read_image(data))


def turned(orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(), kind, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_only_where_asked_for(orientation: int) -> None:
    data = turned(orientation)
    stored = Image.open(io.BytesIO(data))
    for image, expected in (
        (read_image(data), stored),
        (read_image(data, orient=True), ImageOps.exif_transpose(stored)),
        (read_image(data, size=stored.size), stored),
    ):
        np.testing.assert_allclose(image.astype(int), np.asarray(expected).astype(int), atol=3)


def test_stated_size_decides_the_layout() -> None:
    data = turned(6)
    assert read_image(data, size=(WIDTH, HEIGHT)).shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(read_image(data, size=(HEIGHT, WIDTH)), read_image(data, orient=True))
    with pytest.raises(UserError, match="has 53x37 pixels, but its annotations say 50x37"):
        read_image(data, size=(50, HEIGHT))
    with pytest.raises(UserError, match="has 53x37 pixels, but its annotations say 37x53"):
        read_image(turned(1), size=(HEIGHT, WIDTH))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("part", [0.3, 0.5, 0.8, 0.97])
def test_cut_off_files_are_refused(tmp_path: Path, name: str, part: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))
    data = encoded(noise, FORMATS[name])
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(UserError) as error:
        read_image(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_jpegs_with_a_thumbnail_or_trailing_bytes() -> None:
    thumbnail = encoded(picture(), "JPEG")
    exif = b"Exif\0\0" + thumbnail
    data = encoded(Image.new("RGB", (600, 400), "red"), "JPEG")
    inside = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    assert read_image(inside).shape == (400, 600, 3)
    assert read_image(inside + b"\0" * 100).shape == (400, 600, 3)
    assert read_image(inside + b"\xff\xda" * 100).shape == (400, 600, 3)
    progressive = encoded(picture(), "JPEG", progressive=True)
    last_scan = progressive.rindex(b"\xff\xda")
    # In the last one, what is left would make a complete, coarse picture.
    for damaged in (inside[: len(inside) - len(data) // 2], inside[:-2], progressive[:last_scan]):
        with pytest.raises(UserError, match="cut off"):
            read_image(damaged)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"<svg/>" * 50])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.jpg: "):
        read_image(path)
    with pytest.raises(UserError, match="the image: "):
        read_image(content)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.jpg: the image cannot be read: No such file"):
        read_image(tmp_path / "absent.jpg")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_image(tmp_path)


def test_a_header_that_claims_too_many_pixels_is_refused() -> None:
    data = bytearray(encoded(Image.new("L", (8, 8)), "BMP"))
    data[18:26] = (2**20).to_bytes(4, "little") * 2
    with pytest.raises(UserError, match="the image: "):
        read_image(bytes(data))
    png = bytearray(encoded(Image.new("L", (8, 8)), "PNG"))
    png[16:24] = (2**19).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    with pytest.raises(UserError, match="the image: "):
        read_image(bytes(png))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.JPG", "a.png", "notes.txt", "sub/c.jpeg", "sub/deeper/d.webp", "odd[1]/e.bmp", "empty/.keep"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    return tmp_path


def test_sources(tree: Path) -> None:
    def found(*sources: str) -> list[str]:
        return [os.path.relpath(path, tree) for path in find_images([str(tree / source) for source in sources])]

    assert found("b.JPG") == ["b.JPG"]
    assert found("") == ["a.png", "b.JPG", "odd[1]/e.bmp", "sub/c.jpeg", "sub/deeper/d.webp"]
    assert found("sub", "a.png") == ["sub/c.jpeg", "sub/deeper/d.webp", "a.png"]
    assert found("b.JPG", "sub/deeper", "*.png") == ["b.JPG", "sub/deeper/d.webp", "a.png"]
    assert found("**") == ["a.png", "b.JPG", "odd[1]/e.bmp", "sub/c.jpeg", "sub/deeper/d.webp"]
    assert found("**/*.webp") == ["sub/deeper/d.webp"]
    assert found("s*/*") == ["sub/c.jpeg"]
    assert found("odd[1]") == ["odd[1]/e.bmp"]
    assert find_images([tree / "a.png"]) == [str(tree / "a.png")]
    assert find_images([]) == []


def test_files_that_are_left_out_are_counted_by_kind(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (
        "mixed/a.HEIC",
        "mixed/b.heic",
        "mixed/README",
        "mixed/c.MPO",
        "mixed/d.avif",
        "mixed/e.jp2",
        "none/f.heic",
    ):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).touch()
    assert [os.path.basename(path) for path in find_images([tree / "mixed"])] == ["c.MPO", "d.avif", "e.jp2"]
    assert capsys.readouterr().out == f"{tree}/mixed: 3 images; skipped 3 others (2 .heic, 1 without suffix)\n"
    with pytest.raises(UserError, match=r"none: no image found among 1 file \(1 \.heic\)"):
        find_images([tree / "none"])
    with pytest.raises(UserError, match=r"^0: no image found: .*; a camera is camera:0$"):
        find_images(["0"])


def test_all_suffixes_that_opencv_writes_are_found(tmp_path: Path) -> None:
    """Also what it reads, but for PFM, whose numbers it does not scale, and for HDR, which others call headers."""
    pixels = np.asarray(picture())
    for suffix in IMAGE_SUFFIXES:
        form = {".j2c": "JPEG2000", ".jpc": "JPEG2000", ".jfif": "JPEG", ".mpo": "JPEG"}.get(suffix)
        try:
            if form or suffix.startswith((".j2", ".jp2", ".jpf", ".jpx")):
                Image.fromarray(pixels).save(tmp_path / f"a{suffix}", form or "JPEG2000")
            else:
                gray = suffix in (".pgm", ".pbm")
                cv2.imwrite(str(tmp_path / f"a{suffix}"), pixels[..., 0] if gray else pixels[..., ::-1])
        except (OSError, cv2.error) as error:
            pytest.fail(f"{suffix}: {error}")
        assert read_image(tmp_path / f"a{suffix}").shape == (HEIGHT, WIDTH, 3), suffix
    assert len(find_images([tmp_path])) == len(IMAGE_SUFFIXES)


@pytest.mark.parametrize("source", ["absent.jpg", "empty", "*.gif", "notes.*", "absent/**"])
def test_sources_without_images_are_refused(tree: Path, source: str) -> None:
    with pytest.raises(UserError, match="no image found"):
        find_images([tree / "a.png", tree / source])


def test_opencv_takes_no_more_than_200_million_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: OpenCV reads its limit when it is loaded, which must not be before it is set."""
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", "200000000")
    png = bytearray(encoded(Image.new("L", (8, 8)), "PNG"))
    png[16:24] = (15_000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    with pytest.raises(UserError, match="the image: the image says that it has more than 200000000 pixels"):
        read_image(bytes(png))
    monkeypatch.delenv("OPENCV_IO_MAX_IMAGE_PIXELS")
    gif = bytearray(encoded(Image.new("L", (8, 8)), "GIF"))
    gif[6:10] = (15_000).to_bytes(2, "little") * 2
    code = f"from detection.images import read_image; read_image({bytes(gif)!r})"
    words, root = [sys.executable, "-c", code], Path(__file__).parents[2]
    ended = subprocess.run(words, capture_output=True, text=True, cwd=root, timeout=120)
    assert "UserError: the image: the image says that it has more than 200000000 pixels" in ended.stderr


def test_nothing_is_printed_of_a_cut_off_png(capfd: pytest.CaptureFixture[str]) -> None:
    data = encoded(picture(), "PNG")
    for length in (40, len(data) // 2, len(data) - 12):
        with pytest.raises(UserError, match="the image: the image is cut off"):
            read_image(data[:length])
    at = data.index(b"IDAT") - 4
    with pytest.raises(UserError, match="the image: the image is cut off"):
        read_image(data[:at] + (2**30).to_bytes(4, "big") + data[at + 4 :])
    assert read_image(data + bytes(200)).shape == (HEIGHT, WIDTH, 3)
    assert capfd.readouterr().err == ""


def test_folders_are_searched_all_the_way_down(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """But for hidden folders, links to folders, and the folder of results; they are counted."""
    folder = tmp_path / "photos"
    for name in ("a.png", "more/b.png", ".hidden/c.png", "more/.thumbnail.png", "out/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "more/round").symlink_to(folder, target_is_directory=True)
    assert [os.path.relpath(path, folder) for path in find_images([folder], folder / "out")] == ["a.png", "more/b.png"]
    said = "2 images; skipped 3 others (1 hidden folders, 1 folder of results, 1 links to folders)"
    assert capsys.readouterr().out == f"{folder}: {said}\n"
    assert len(find_images([folder])) == 3


def test_a_list_on_stdin(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(text: str) -> list[str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        return find_images(["-"])

    assert listed(f"{tree}/b.JPG\r\n\n{tree}/a.png\nhttp://a/b.jpg") == [
        f"{tree}/b.JPG",
        f"{tree}/a.png",
        "http://a/b.jpg",
    ]
    with pytest.raises(UserError, match=r"-: 2 of the 3 lines on stdin name no file, the first: none\.jpg"):
        listed(f"{tree}/a.png\nnone.jpg\n{tree}\n")
    with pytest.raises(UserError, match="stdin lists no image"):
        listed("\n")
