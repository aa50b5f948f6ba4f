"""The same pictures in every format train to the same numbers; splits by content."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.data.annotations import CocoAnnotations, part_of
from detection.data.coco import load_annotations
from detection.data.formats import read
from detection.data.formats.read import is_training_split, read_annotations, validation_part
from detection.data.formats.write import write_data_set
from detection.data.prepare import check_data
from detection.settings import DataSettings, DetectionTrainSettings, EvalDataSettings, ModelSettings, TrainDetection
from detection.training.train import train
from divdet.engine.errors import UserError
from tests.detection.data.formats.made import coco, image, text


def test_every_format_trains_to_the_same_bits(shared: Path, tmp_path: Path) -> None:
    bccd = shared / "data" / "bccd"
    splits = {}
    for split, count in (("train", 3), ("val", 2)):
        truth = json.loads((bccd / "annotations" / f"instances_{split}.json").read_text())
        truth["images"] = truth["images"][:count][::-1]  # not by name, as exports are
        kept = {entry["id"] for entry in truth["images"]}
        truth["annotations"] = [entry for entry in truth["annotations"] if entry["image_id"] in kept]
        text(tmp_path / "cut" / "annotations" / f"instances_{split}.json", json.dumps(truth))
        splits[split] = load_annotations(tmp_path / "cut/annotations" / f"instances_{split}.json", bccd / "images")
    data = DataSettings(val_annotations=str(splits["val"].path), val_images=str(bccd / "images"))
    data = replace(data, train_annotations=str(splits["train"].path), train_images=str(bccd / "images"))
    runs = {"cut": data}
    for target in ("coco", "yolo", "voc"):
        write_data_set(splits, target, tmp_path / target, link=True)
        runs[target] = DataSettings(path=str(tmp_path / target))
    write_data_set(splits, "yolo", tmp_path / "six", link=True)
    for file in (tmp_path / "six" / "labels").rglob("*.txt"):  # as other tools write fractions
        rows = [line.split() for line in file.read_text().splitlines()]
        lines = [f"{row[0]} {' '.join(f'{float(word):.6f}' for word in row[1:])}\n" for row in rows]
        file.write_text("".join(lines))
    runs["six"] = DataSettings(path=str(tmp_path / "six" / "data.yaml"))
    written = {}
    for name, settings in runs.items():
        schedule = DetectionTrainSettings(epochs=1, batch_size=3, lr=0.01, workers=0)
        output = tmp_path / "runs" / name
        train(TrainDetection(ModelSettings("resnet10_16", 2), settings, schedule, output=str(output), device="cpu"))
        written[name] = (output / "metrics.jsonl").read_text()
    assert "train_loss" in written["cut"]
    assert all(other == written["cut"] for other in written.values())


def photos(folder: Path, count: int, start: int = 0) -> CocoAnnotations:
    names = [f"{number:03}.png" for number in range(start, start + count)]
    for number, name in enumerate(names, start):
        image(folder / name, number, (20 + number, 30))
    truth = coco(*names, box=[1, 2, 3, 4])
    for number, entry in enumerate(truth["images"], start):
        entry |= {"width": 20 + number, "height": 30}
    return load_annotations(text(folder / f"{start}-{count}.json", json.dumps(truth)), folder)


def test_the_split_that_a_detector_was_trained_on(tmp_path: Path) -> None:
    names = ("train.json", "val.json", "other/train.json")
    train, val, other = (str(text(tmp_path / name, json.dumps(coco("a.jpg")))) for name in names)
    of_folder = DataSettings(path=str(tmp_path))
    for own in (of_folder, DataSettings(train_annotations=train, val_annotations=val)):
        for file, same in ((train, True), (f"{tmp_path}/other/../train.json", True), (val, False), (other, False)):
            assert is_training_split(EvalDataSettings(file), own) is same
        assert not is_training_split(of_folder, own)
    held_out = DataSettings(train_annotations=train, val_fraction=0.2)
    gone = DataSettings(train_annotations=str(tmp_path / "gone.json"))
    assert not any(is_training_split(EvalDataSettings(train), own) for own in (gone, DataSettings()))
    assert is_training_split(EvalDataSettings(train), held_out)
    for part, seed, own in ((0.2, 0, False), (0.1, 0, False), (0.3, 0, True), (0.2, 1, True)):
        data = EvalDataSettings(train_annotations=train, val_fraction=part, val_seed=seed)
        assert is_training_split(data, held_out) is own
        assert is_training_split(data, DataSettings(train_annotations=train, val_annotations=val))


def test_content_decides_the_side(tmp_path: Path) -> None:
    few, all_ = photos(tmp_path, 60), photos(tmp_path, 120)
    chosen = validation_part(all_, 0.25, seed=3)
    assert 15 <= chosen.sum() <= 45
    assert validation_part(few, 0.25, seed=3).tolist() == chosen[:60].tolist()  # others do not matter
    assert (validation_part(all_, 0.4, seed=3) | ~chosen).all()  # nor does a larger fraction move any back
    assert validation_part(all_, 0.25, seed=4).tolist() != chosen.tolist()
    part = part_of(all_, chosen)
    assert [record.file_name for record in part.images] == [
        record.file_name for record, kept in zip(all_.images, chosen, strict=True) if kept
    ]
    assert len(part.truth.image) == len(part.images) == part.truth.image.max() + 1


def test_copies_stay_together_and_no_side_is_empty(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "c.png"]
    for name in names:
        image(tmp_path / name, name == "c.png")
    annotations = load_annotations(text(tmp_path / "t.json", json.dumps(coco(*names))), tmp_path)
    for seed in range(9):
        for fraction in (0.001, 0.5, 0.999):
            chosen = validation_part(annotations, fraction, seed)
            assert chosen[0] == chosen[1] != chosen[2]
    with pytest.raises(UserError, match="copies of one, which cannot be split"):
        validation_part(part_of(annotations, np.array([True, True, False])), 0.5, 0)


def test_augmented_versions_stay_together(tmp_path: Path) -> None:
    names = [f"{number % 30}_jpg.rf.{number:032x}.png" for number in range(90)]  # three of each photo
    for number, name in enumerate(names):
        image(tmp_path / name, number)
    annotations = load_annotations(text(tmp_path / "t.json", json.dumps(coco(*names))), tmp_path)
    sides = validation_part(annotations, 0.3, 0).reshape(3, 30)
    assert (sides == sides[0]).all()
    assert 2 < sides[0].sum() < 18
    # Without versions, content decides, as for other names
    plain = load_annotations(text(tmp_path / "u.json", json.dumps(coco(*names[:30]))), tmp_path)
    assert validation_part(plain, 0.3, 0).tolist() != sides[0].tolist()


def test_val_fraction_of_settings(tmp_path: Path) -> None:
    photos(tmp_path, 20)
    data = EvalDataSettings(path=str(tmp_path), val_fraction=0.3)
    training, validation = (read_annotations(data, split) for split in ("train", "val"))
    names = [{record.file_name for record in part.images} for part in (training, validation)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 20
    assert "of 20 images, for validation by data.val_fraction 0.3" in validation.describe()
    assert [record.file_name for record in read_annotations(data, "val", need_images=False).images] == [
        record.file_name for record in validation.images
    ]
    (tmp_path / "val.json").write_text(json.dumps(coco("000.png")))
    with pytest.raises(UserError, match=r"val_fraction and data\.val_annotations are both set"):
        EvalDataSettings(val_fraction=0.3, val_annotations="x")
    with pytest.raises(UserError, match=r"val_fraction and data\.val_images are both set"):
        EvalDataSettings(val_fraction=0.3, val_images="x")
    with pytest.raises(UserError, match="choose a share above 0 and below 1"):
        EvalDataSettings(val_fraction=1.0)


def test_classes_without_objects_are_those_of_the_part(tmp_path: Path) -> None:
    photos(tmp_path, 20)
    path = tmp_path / "0-20.json"
    truth = json.loads(path.read_text())
    truth["categories"].append({"id": 5, "name": "rare"})
    truth["annotations"][0]["category_id"] = 5
    path.write_text(json.dumps(truth))
    data = EvalDataSettings(path=str(tmp_path), val_fraction=0.3)
    told = [
        "1 class without objects ('rare')" in read_annotations(data, split).describe() for split in ("train", "val")
    ]
    assert sorted(told) == [False, True]


def test_a_validation_split_excludes_val_fraction(tmp_path: Path) -> None:
    for split in ("train", "val"):
        image(tmp_path / "images" / split / f"{split}.png")
        text(tmp_path / "labels" / split / f"{split}.txt", "0 0.5 0.5 0.5 0.5\n")
    with pytest.raises(UserError, match=r"but there is a validation split, .*: leave one out"):
        read_annotations(EvalDataSettings(path=str(tmp_path), val_fraction=0.3), "train")


def test_links_to_files_elsewhere_are_followed(tmp_path: Path) -> None:
    image(tmp_path / "store" / "x.png")
    (tmp_path / "fold" / "images").mkdir(parents=True)
    (tmp_path / "fold" / "images" / "a.png").symlink_to(tmp_path / "store" / "x.png")
    text(tmp_path / "fold" / "labels" / "a.txt", "0 0.5 0.5 0.5 0.5\n")
    found = read_annotations(EvalDataSettings(train_annotations=str(tmp_path / "fold")), "train")
    assert [record.file_name for record in found.images] == ["x.png"]
    assert len(found.images[0].boxes) == 1


@pytest.mark.parametrize("kind", ["yolo", "voc"])
def test_links_to_folders_are_followed_but_not_in_circles(kind: str, tmp_path: Path) -> None:
    """Collections are often put together of such links, and what is behind them was left out without a word."""
    images, labels = ("JPEGImages", "Annotations") if kind == "voc" else ("images", "labels")
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    label = f"<annotation><object><name>a</name>{box}</object></annotation>" if kind == "voc" else "0 .5 .5 .5 .5"
    for number, root in enumerate((tmp_path / "set", tmp_path / "store")):
        image(root / images / f"{number}.png", number)
        text(root / labels / f"{number}.{'xml' if kind == 'voc' else 'txt'}", label)
    for inner in (images, labels):
        (tmp_path / "set" / inner / "more").symlink_to(tmp_path / "store" / inner)
        (tmp_path / "store" / inner / "back").symlink_to(tmp_path / "set" / inner)
        (tmp_path / "set" / inner / "again").symlink_to(tmp_path / "store" / inner)
        (tmp_path / "set" / inner / "up").symlink_to(tmp_path)
    image(tmp_path / "set" / images / ".checkpoints" / "0.png", 0)
    found = read_annotations(EvalDataSettings(train_annotations=str(tmp_path / "set")), "train")
    assert [record.path.name for record in found.images] == ["0.png", "1.png"]
    assert [len(record.boxes) for record in found.images] == [1, 1]


def test_a_folder_that_cannot_be_read_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for part in ("a", "lost+found"):
        image(tmp_path / "images" / part / "0.png", 0)
        text(tmp_path / "labels" / part / "0.txt", "0 .5 .5 .5 .5")
    scan = os.scandir

    def refuse(folder: str) -> object:  # to root, on whom modes have no effect
        if str(folder).endswith("images/lost+found"):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    found = read_annotations(EvalDataSettings(train_annotations=str(tmp_path)), "train")
    assert [record.path.parent.name for record in found.images] == ["a"]
    said = f"note: {tmp_path}/images/lost+found: cannot be read (Permission denied), so it is left out\n"
    assert capsys.readouterr().out.count(said) == 1


def counted(function: Callable, calls: list[str]) -> Callable:
    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(function.__name__)
        return function(*arguments, **options)

    return call


@pytest.mark.parametrize("fraction", [0.3, None])
def test_what_both_splits_need_is_read_once(
    fraction: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("find_splits", "read_source"):
        original = getattr(read, name)
        monkeypatch.setattr(read, name, counted(original, calls))
    if fraction:
        photos(tmp_path, 20)
    else:
        for split, start in (("train", 0), ("val", 5)):
            photos(tmp_path / split, 5, start)
    check = check_data(EvalDataSettings(path=str(tmp_path), val_fraction=fraction), ("train", "val"))
    assert sum(len(held.images) for held in check.splits.values()) == (20 if fraction else 10)
    assert calls.count("read_source") == (1 if fraction else 2)
    assert calls.count("find_splits") == 1
