"""inspect-data: the files it writes, its exit code, and its page in a browser."""

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from detection.data.faults import DataError
from detection.data.prepare import read_splits
from detection.settings import DataSettings
from divdet.commands import COMMANDS
from divdet.commands.data_settings import InspectData
from divdet.commands.inspect_data import inspect_data
from divdet.engine.errors import UserError
from tests.browser import CHROMIUM, Tags, console, width

HOSTILE = "<script>alert('x')</script>&\"'"


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def make(folder: Path, images: int, classes: list[str], seed: int = 0) -> DataSettings:
    """Photos of 400 x 300 pixels with up to five boxes each, of several sizes."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    listed, annotations = [], []
    for number in range(images):
        name = f"a rather long name of a file without any place to break it {HOSTILE[:7]}_{number}".replace(" ", "_")
        picture = np.full((300, 400, 3), random.integers(0, 255, 3), np.uint8)
        for _ in range(number % 6):
            x, y, side = random.integers(0, 290), random.integers(0, 190), random.choice([3, 20, 100])
            picture[y : y + side, x : x + side] = random.integers(0, 255, 3)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": int(random.integers(len(classes))),
                    "bbox": [int(x), int(y), int(side), int(side)],
                }
            )
        (folder / f"{name}.jpg").write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
        listed.append({"id": number, "file_name": f"{name}.jpg", "width": 400, "height": 300})
    categories = [{"id": number, "name": name} for number, name in enumerate(classes)]
    file = folder / "truth.json"
    file.write_text(json.dumps({"images": listed, "annotations": annotations, "categories": categories}))
    return DataSettings(train_annotations=str(file), train_images=str(folder))


def inspected(data: DataSettings, folder: Path) -> Tags:
    inspect_data(InspectData(data=data, output=str(folder)))
    return Tags((folder / "inspect.html").read_text(encoding="utf-8"))


def test_a_sound_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make(tmp_path / "data", 8, ["cat", HOSTILE])
    page = inspected(data, tmp_path / "out")
    assert (tmp_path / "out" / "faults.txt").read_text() == ""
    printed = capsys.readouterr().out
    assert "images: 8 (2 without objects); objects: 16; crowds: 0; classes: 2" in printed
    assert "become 2.2 x 3.0" in printed  # 3 of 400 x 300 pixels
    assert HOSTILE in printed
    assert HOSTILE not in (tmp_path / "out" / "inspect.html").read_text(encoding="utf-8")
    assert not [tag for tag, _ in page.tags if tag == "script"]
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) >= 8
    assert all(picture["alt"] and picture["src"].startswith("data:image/jpeg;base64,") for picture in pictures)
    assert [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)][:3] == ["h1", "h2", "h2"]
    addresses = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert all(address.startswith("data:") for address in addresses)


def test_a_picture_of_many_classes_names_some_of_them(tmp_path: Path) -> None:
    data = make(tmp_path / "data", 1, [f"class {number}" for number in range(12)])
    truth = json.loads(Path(data.train_annotations).read_text())
    boxes = [{"id": n, "image_id": 0, "category_id": n, "bbox": [30 * n, 9, 20, 20]} for n in range(12)]
    Path(data.train_annotations).write_text(json.dumps(truth | {"annotations": boxes}))
    inspected(data, tmp_path / "out")
    assert "1 class 7, 4 more classes</figcaption>" in (tmp_path / "out" / "inspect.html").read_text(encoding="utf-8")


def test_the_frames_of_the_smallest_objects_are_two_pixels_wide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # JPEG washes a single one out
    drawn: list[np.ndarray] = []
    monkeypatch.setattr("detection.visual.data_page.image", lambda rgb, alt: drawn.append(rgb) or "")
    inspect_data(InspectData(data=make(tmp_path / "data", 8, ["cat"]), output=str(tmp_path / "out")))
    small = [picture for picture in drawn if picture.shape == (240, 240, 3)]
    assert small
    for picture in small:
        frame = (picture == (240, 228, 66)).all(-1).astype(np.uint8)
        assert cv2.erode(frame, np.ones((2, 2), np.uint8)).any()


def test_faults_are_written_before_the_error(tmp_path: Path) -> None:
    data = make(tmp_path / "data", 6, ["cat"])
    for file in sorted((tmp_path / "data").glob("*.jpg"))[:2]:
        file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(DataError, match="2 faults"):
        inspected(data, tmp_path / "out")
    lines = (tmp_path / "out" / "faults.txt").read_text().splitlines()
    assert [len(line.split("\t")) for line in lines] == [3, 3]
    text = (tmp_path / "out" / "inspect.html").read_text(encoding="utf-8")
    assert text.count("damaged or cut off") == 2
    assert "&lt;script" in text


def test_a_file_that_cannot_be_read_leaves_the_other_split(tmp_path: Path) -> None:
    data = make(tmp_path / "data", 6, ["cat"])
    data.val_annotations, data.val_images = str(tmp_path / "no.json"), data.train_images
    with pytest.raises(DataError, match=r"no\.json"):
        inspected(data, tmp_path / "out")
    assert "training images" in (tmp_path / "out" / "inspect.html").read_text()


def test_a_recipe_and_no_images(tmp_path: Path) -> None:
    """Its other sections are of no use here, but must not be in the way; without check no image is needed."""
    data = make(tmp_path / "data", 3, ["cat"])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {{members: 2}}\ntrain: {{epochs: 3}}\ndata: {{train_annotations: '{data.train_annotations}'}}\n"
    )
    for file in (tmp_path / "data").glob("*.jpg"):
        file.unlink()
    words = ["--config", str(recipe), "--data.check", "false", "--output", str(tmp_path / "out")]
    COMMANDS["inspect-data"].call(COMMANDS["inspect-data"].parse(words))
    assert "Images were not decoded." in (tmp_path / "out" / "inspect.html").read_text()


def test_what_cannot_be_read_prints_no_empty_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "truth.json").write_text("{}")
    with pytest.raises(DataError, match=r"truth\.json"):
        inspected(DataSettings(train_annotations=str(tmp_path / "truth.json")), tmp_path / "out")
    assert capsys.readouterr().out.startswith("wrote ")


def test_no_data_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.train_annotations is not set"):
        inspected(DataSettings(), tmp_path / "out")


def test_one_image_and_no_object(tmp_path: Path) -> None:
    """Training says the same of it."""
    data = make(tmp_path / "data", 1, ["cat"])
    with pytest.raises(DataError, match=r"truth\.json: there is no object to learn from \(1 image \(1 w"):
        inspected(data, tmp_path / "out")
    assert "no object to learn from" in (tmp_path / "out/faults.txt").read_text()
    data.val_annotations, data.val_images = data.train_annotations, data.train_images
    for skip_bad in (False, True):
        with pytest.raises(DataError, match=r"truth\.json: there is no object to learn from \(1 image \(1 w"):
            read_splits(replace(data, skip_bad=skip_bad))


def test_crowds_alone_teach_nothing(tmp_path: Path) -> None:
    data = make(tmp_path / "data", 2, ["cat"])
    file = Path(data.train_annotations)
    truth = json.loads(file.read_text())
    crowds = [annotation | {"iscrowd": 1} for annotation in truth["annotations"]]
    file.write_text(json.dumps(truth | {"annotations": crowds}))
    with pytest.raises(DataError, match=r"no object to learn from \(2 images .*; all boxes are crowds \(iscrowd 1\)"):
        inspected(data, tmp_path / "out")


def test_no_object_in_validation_is_worth_a_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, other = make(tmp_path / "data", 3, ["cat"]), make(tmp_path / "other", 1, ["cat"], seed=1)
    data.val_annotations, data.val_images = other.train_annotations, other.train_images
    inspected(data, tmp_path / "out")
    assert "  - validation has no object: there is no AP to measure" in capsys.readouterr().out


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt install chromium")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """No error on the console, and nothing wider than a phone's 400 pixels."""
    data = make(tmp_path / "data", 14, [f"a class of a rather long name {number}" for number in range(30)])
    other = make(tmp_path / "other", 8, [f"a class of a rather long name {number}" for number in range(30)], seed=1)
    data.val_annotations, data.val_images = other.train_annotations, other.train_images
    (file, *_) = (tmp_path / "other").glob("*.jpg")
    file.write_bytes(b"")
    with pytest.raises(DataError):
        inspected(data, tmp_path / "out")
    page = tmp_path / "out" / "inspect.html"
    assert "What the data is like" in page.read_text(encoding="utf-8")
    assert not console(page)
    assert width(page, 400) == 400
    text, probe = page.read_text(encoding="utf-8"), page.with_name("wrong.html")
    probe.write_text(text.replace("<h1>", '<p style="width: 30rem">wide</p><h1>'), encoding="utf-8")
    assert width(probe, 400) == 496  # 30rem and the margin
    probe.write_text(text.replace("<h1>", "<script>1</script><h1>"), encoding="utf-8")
    assert console(probe)  # the page refuses scripts: errors would be seen
