"""The index of image files: facts, faults, and what is remembered of them."""

import json
import os
import shutil
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detection.data import image_index
from detection.data.image_index import ImageFacts, index_images


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    new_process()


def new_process() -> None:
    """Forgets what the index keeps in memory."""
    image_index._tell.cache_clear()
    image_index._folder.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four photos of 40 x 30 pixels."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(4):
        cv2.imwrite(str(folder / f"{number}.jpg"), random.integers(0, 255, (30, 40, 3), np.uint8))
    return folder


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded from now on."""
    names: list[str] = []
    real = image_index.image_facts
    monkeypatch.setattr(image_index, "image_facts", lambda path: names.append(path.name) or real(path))
    return names


def cache_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "divdet" / "images").iterdir())


def test_facts(folder: Path) -> None:
    pixels = cv2.imread(str(folder / "0.jpg"))
    cv2.imwrite(str(folder / "copy.png"), pixels)  # the same pixels
    exif = Image.Exif()
    exif[274] = 6
    segment = exif.tobytes()
    head = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment
    (folder / "turned.jpg").write_bytes(head + (folder / "0.jpg").read_bytes()[2:])
    cv2.imwrite(str(folder / "deep.png"), np.full((30, 40), 4095, np.uint16))
    facts = {path.name: fact for path, fact in index_images(sorted(folder.iterdir())).items()}
    assert all((fact.width, fact.height, fact.fault) == (40, 30, "") for fact in facts.values())
    assert facts["turned.jpg"].orientation == 6
    assert facts["turned.jpg"].upright == (30, 40)
    assert len({facts[name].digest for name in ("0.jpg", "copy.png", "turned.jpg")}) == 1
    assert len({fact.digest for fact in facts.values()}) == 5
    assert facts["deep.png"].bits == 12
    assert facts["copy.png"].bits == 8


def test_every_fault_is_found_at_once(folder: Path) -> None:
    whole = (folder / "0.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("<html>404</html>")
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    names = ("cut", "empty", "text", "folder", "pipe", "missing")
    facts = index_images([folder / "0.jpg", *(folder / f"{name}.jpg" for name in names)])
    words = ("damaged or cut off", "is empty", "not an image", "Is a directory", "named pipe", "No such file")
    assert not facts.pop(folder / "0.jpg").fault
    for fact, word in zip(facts.values(), words, strict=True):
        assert word in fact.fault
        assert str(folder) not in fact.fault


def test_what_has_not_changed_is_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted(folder.iterdir())
    names = decoded(monkeypatch)
    first = index_images(paths[:3])
    assert sorted(names) == ["0.jpg", "1.jpg", "2.jpg"]
    new_process()
    assert index_images(paths)[paths[0]] == first[paths[0]]
    assert names[3:] == ["3.jpg"]
    cv2.imwrite(str(paths[1]), np.zeros((20, 20, 3), np.uint8))
    assert index_images(paths)[paths[1]][:2] == (20, 20)
    assert names[4:] == ["1.jpg"]
    times = paths[2].stat()
    shutil.copyfile(paths[3], paths[2])  # of another size; the time is set back
    os.utime(paths[2], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert index_images(paths)[paths[2]].digest == index_images(paths)[paths[3]].digest
    assert names[5:] == ["2.jpg"]
    bitmap = folder / "same.bmp"  # whose size in bytes does not depend on its pixels
    digests = []
    for time, value in enumerate((0, 255), 1):
        cv2.imwrite(str(bitmap), np.full((20, 20, 3), value, np.uint8))
        os.utime(bitmap, ns=(time, time))
        digests.append(index_images([bitmap])[bitmap].digest)
    assert digests[0] != digests[1]
    paths[0].unlink()
    assert "No such file" in index_images(paths)[paths[0]].fault


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: text[:-9],
        lambda text: b"\x80\x04" + text,
        lambda text: b"[]",
        lambda text: b"[" * 100_000,
        lambda text: text.replace(b"40,30", b'40,"x"'),
        lambda text: text.replace(b"40,30", b"40,-1"),
        lambda text: text.replace(b"photos", b"others"),
    ],
)
def test_a_damaged_cache_is_made_anew(
    damage, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    paths = sorted(folder.iterdir())
    expected = index_images(paths)
    (file,) = cache_files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    new_process()
    names = decoded(monkeypatch)
    assert index_images(paths) == expected
    assert len(names) == 4
    assert f"{file}: is damaged" in capsys.readouterr().out
    assert file.read_bytes() == whole


def test_other_versions_and_an_unwritable_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    paths = sorted(folder.iterdir())
    expected = index_images(paths)
    (file,) = cache_files(tmp_path)
    saved = json.loads(file.read_text())
    saved["format"][1] = "4.0"
    file.write_text(json.dumps(saved))
    new_process()
    names = decoded(monkeypatch)
    assert index_images(paths) == expected
    assert len(names) == 4
    assert not capsys.readouterr().out
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert index_images(paths) == index_images(paths) == expected
    assert capsys.readouterr().out.count("decoded anew") == 1


def test_an_interrupt_ends_it_and_keeps_what_was_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted(folder.iterdir())
    real = image_index.image_facts

    def interrupted(path: Path) -> ImageFacts:
        if path.name == "3.jpg":
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(image_index, "image_facts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index_images(paths)
    monkeypatch.setattr(image_index, "image_facts", real)
    new_process()
    names = decoded(monkeypatch)
    assert not any(fact.fault for fact in index_images(paths).values())
    assert names == ["3.jpg"]
