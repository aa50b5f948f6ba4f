"""Data sets cut into tiles: what each tile holds, by hand, and as users convert."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.data.formats.read import read_annotations
from detection.images import read_image
from detection.settings import EvalDataSettings
from divdet.commands import COMMANDS
from divdet.engine.errors import UserError

# Tiles of 300 of a width of 500 begin at 0 and 200; the second box is cut by a third, the third by more
BOXES = [[10, 10, 20, 20], [290, 50, 30, 30], [295, 100, 30, 30], [0, 0, 500, 300]]


def convert(*words: object) -> None:
    command = COMMANDS["convert"]
    command.call(command.parse([str(word) for word in words]))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A photo with ``BOXES``, the last one a crowd, stored on its side; and one of the same size without objects."""
    folder = tmp_path / "data"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(pixels))).save(folder / "a.png", exif=exif)
    Image.fromarray(pixels).save(folder / "a_0_0.png")  # the name of a tile of the other
    entries = [
        {"id": n, "image_id": 1, "category_id": 5, "bbox": box, "area": box[2] * box[3] / 2, "iscrowd": int(n == 3)}
        for n, box in enumerate(BOXES)
    ]
    images = [{"id": n, "file_name": name, "width": 500, "height": 300} for n, name in ((1, "a.png"), (2, "a_0_0.png"))]
    truth = {"images": images, "annotations": entries, "categories": [{"id": 5, "name": "cell"}]}
    (folder / "truth.json").write_text(json.dumps(truth))
    return folder


def test_tiles_hold_their_part_of_image_and_boxes(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    convert(data / "truth.json", "--to", "coco", "--tile", 300, "--output", out)
    truth = json.loads((out / "annotations" / "instances_train.json").read_text())
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    assert len(names) == 3  # and one of the two empty tiles
    found = {name: [] for name in names.values()}
    for entry in truth["annotations"]:
        found[names[entry["image_id"]]].append((entry["bbox"], entry["area"], entry["iscrowd"]))
    crowd = ([0, 0, 300, 300], 45000, 1)
    assert found.pop("a_0_0.png") == [([10, 10, 20, 20], 200, 0), ([290, 50, 10, 30], 150, 0), crowd]
    assert found.pop("a_200_0.png") == [([90, 50, 30, 30], 450, 0), ([95, 100, 30, 30], 450, 0), crowd]
    assert list(found.values()) == [[]]
    assert truth["categories"] == [{"id": 5, "name": "cell"}]
    pixels = read_image(data / "a_0_0.png")
    assert np.array_equal(read_image(out / "images" / "a_200_0.png"), pixels[:, 200:])
    printed = capsys.readouterr().out
    assert "2 images cut into tiles of 300 pixels: 3 images (1 without objects)" in printed
    assert "1 parts of boxes dropped, since their tile holds less than 0.3 of them" in printed
    assert "1 tiles without objects left out" in printed
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("format", ["yolo", "voc"])
def test_tiles_in_other_formats(data: Path, tmp_path: Path, format: str) -> None:
    words = ["--to", format, "--tile", 300, "--min_share", 1, "--empty_ratio", 9, "--output", tmp_path / "out"]
    convert(data / "truth.json", *words)
    found = read_annotations(EvalDataSettings(train_annotations=str(tmp_path / "out")), "train")
    assert len(found.images) == 4
    boxes = found.truth.bbox[~found.truth.crowd].round(6).tolist()
    assert sorted(boxes) == [[10, 10, 20, 20], [90, 50, 30, 30], [95, 100, 30, 30]]


def test_what_no_tile_holds_is_counted(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--to", "coco", "--tile", 250, "--min_share", 0.6, "--output"]
    convert(data / "truth.json", *words, tmp_path / "crowd")
    assert "boxes in no tile" not in capsys.readouterr().out  # a crowd is in every tile that shows a part of it
    truth = json.loads((data / "truth.json").read_text())
    truth["annotations"][3]["iscrowd"] = 0
    (data / "large.json").write_text(json.dumps(truth))
    convert(data / "large.json", *words, tmp_path / "large")
    assert "1 boxes in no tile" in capsys.readouterr().out  # a tile of 250 holds 0.42 of it


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--tile 300 --link true", "link and tile are both set"),
        ("--tile 0", "tile is 0"),
        ("--tile 300 --overlap 1", r"overlap is 1\.0"),
        ("--tile 300 --min_share 2", r"min_share is 2\.0"),
        ("--tile 300 --empty_ratio -1", r"empty_ratio is -1\.0"),
        ("--tile 32 --min_share 0.99 --empty_ratio 0 --overlap 0", "no tile of train holds an object"),
    ],
)
def test_tiles_that_cannot_be_are_refused(data: Path, tmp_path: Path, words: str, message: str) -> None:
    truth = json.loads((data / "truth.json").read_text())
    truth["annotations"] = truth["annotations"][1:3]
    (data / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(UserError, match=message):
        convert(data / "truth.json", "--to", "coco", "--output", tmp_path / "out", *words.split())
    assert not (tmp_path / "out").exists()
