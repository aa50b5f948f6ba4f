"""The commands convert and split from the command line's words on."""

import json
from pathlib import Path

import pytest

from detection.data.formats.read import read_annotations
from detection.settings import EvalDataSettings
from divdet.commands import COMMANDS
from divdet.engine.errors import UserError
from tests.detection.data.formats.made import coco, image, text, xml


def run(*words: object) -> None:
    name, *rest = map(str, words)
    COMMANDS[name].call(COMMANDS[name].parse(rest))


def test_convert_writes_every_format_from_every_other(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for split in ("train", "val"):
        image(tmp_path / "coco" / split / "a.jpg")
        text(tmp_path / "coco" / "annotations" / f"{split}.json", json.dumps(coco("a.jpg")))
    source = "coco"
    for target in ("voc", "yolo", "coco"):
        run("convert", tmp_path / source, "--to", target, "--output", tmp_path / f"{target}2")
        source = f"{target}2"
        found = read_annotations(EvalDataSettings(path=str(tmp_path / source)), "val")
        assert found.truth.bbox.tolist() == [[20, 10, 40, 30]]
    assert "wrote" in capsys.readouterr().out
    with pytest.raises(UserError, match="not empty"):
        run("convert", tmp_path / "coco", "--to", "coco", "--output", tmp_path / "coco2")
    with pytest.raises(UserError, match="--to is missing"):
        run("convert", tmp_path / "coco", "--output", tmp_path / "x")


def test_convert_names_the_faults_of_all_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        image(tmp_path / "images" / split / "a.jpg")
        text(tmp_path / "labels" / split / "a.txt", "0 0.5 0.5 0.1 0.1\n0 10 20 30 40\n")
    with pytest.raises(UserError, match="2 faults") as raised:
        run("convert", tmp_path, "--to", "voc", "--output", tmp_path / "out")
    assert all(split in str(raised.value) for split in ("train", "val"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["coco", "yolo", "voc"])
def test_split_writes_what_val_fraction_divides(format: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    names = [f"{number}.jpg" for number in range(12)]
    for number, name in enumerate(names):
        image(folder / name, 5 * number)
        if format != "coco":
            stem = folder / str(number)
            box = xml(("cat", 1, 1, 9, 9)) if format == "voc" else "0 0.5 0.5 0.1 0.1\n"
            text(stem.with_suffix(".xml" if format == "voc" else ".txt"), box)
    if format == "coco":
        text(folder / "all.json", json.dumps(coco(*names) | {"info": {"year": 2024}}))
    run("split", folder, "--fraction", 0.3, "--seed", 1, "--output", tmp_path / "parts")
    whole = EvalDataSettings(path=str(folder), val_fraction=0.3, val_seed=1)
    parts = EvalDataSettings(
        train_annotations=str(tmp_path / "parts" / ("data.yaml" if format == "yolo" else "train.json")),
        val_annotations=str(tmp_path / "parts" / ("data.yaml" if format == "yolo" else "val.json")),
        train_images=None if format == "yolo" else str(folder),
        val_images=None if format == "yolo" else str(folder),
    )
    for split in ("train", "val"):
        one, other = (read_annotations(data, split) for data in (whole, parts))
        assert [record.file_name for record in one.images] == [record.file_name for record in other.images]
        assert one.truth.bbox.tolist() == other.truth.bbox.tolist()
    if format == "coco":
        assert json.loads((tmp_path / "parts" / "val.json").read_text())["info"] == {"year": 2024}
