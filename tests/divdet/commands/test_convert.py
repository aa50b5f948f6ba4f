"""The commands convert and split from the command line's words on."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from detection.data.annotations import NAMES
from detection.data.faults import DataError
from detection.data.formats.read import read_annotations
from detection.data.prepare import check_data
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


def both(whole: EvalDataSettings, parts: EvalDataSettings) -> None:
    """The parts hold what val_fraction divides, under the same names of classes."""
    for split in ("train", "val"):
        one, other = (read_annotations(data, split) for data in (whole, parts))
        assert [record.path.name for record in one.images] == [record.path.name for record in other.images]
        assert len(one.truth.bbox) == len(one.images)
        assert one.truth.bbox.tolist() == other.truth.bbox.tolist()
        assert [one.names[label] for label in one.truth.label] == [other.names[label] for label in other.truth.label]


@pytest.mark.parametrize("listed", ["data.yaml", "classes.txt"])
def test_split_keeps_yolo_classes_and_links(listed: str, tmp_path: Path) -> None:
    """With a gap, a background that nothing uses, key points, and images that are links to another folder."""
    folder, store = tmp_path / "data", tmp_path / "store"
    (folder / "images").mkdir(parents=True)
    points = " 0.5 0.5 2" * 2 if listed == "data.yaml" else ""
    for number in range(12):
        (folder / "images" / f"{number}.jpg").symlink_to(image(store / f"{number}.jpg", 5 * number))
        text(folder / "labels" / f"{number}.txt", f"{(1, 3)[number % 2]} 0.5 0.5 0.1 0.1{points}\n")
    names = {0: "background", 1: "cat", 3: "dog"}
    if listed == "data.yaml":
        kept = {"names": names, "nc": 3, "kpt_shape": [2, 3], "flip_idx": [1, 0]}
        text(folder / "data.yaml", yaml.safe_dump(kept | {"path": str(folder), "train": "images"}))
    else:
        text(folder / "labels" / "classes.txt", "background\ncat\nbird\ndog\n")
    run("split", folder, "--fraction", 0.3, "--output", tmp_path / "parts")
    path = str(tmp_path / "parts" / "data.yaml")
    both(EvalDataSettings(path=str(folder), val_fraction=0.3), EvalDataSettings(path=path))
    lines = (tmp_path / "parts" / "train.txt").read_text().splitlines()
    assert {Path(line).parent for line in lines} == {folder / "images"}
    if listed == "data.yaml":
        assert yaml.safe_load(Path(path).read_text()) == kept | {"train": "train.txt", "val": "val.txt"}


@pytest.mark.parametrize(("form", "encoding"), [(float, "utf-8"), (str, "utf-8"), (float, "utf-16")])
def test_split_keeps_annotations_of_ids_in_any_form(
    form: type, encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Also text in UTF-16 and file names of another machine, whose folder the printed words name."""
    folder = tmp_path / "my data"
    for number in range(12):
        image(folder / "images" / f"{number}.jpg", 5 * number)
    truth = coco(*(f"/home/me/x/{number}.jpg" for number in range(12)))
    truth["categories"] = [{"id": 0, "name": "background"}, {"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}]
    for entry in truth["annotations"]:
        entry |= {"image_id": form(entry["image_id"]), "category_id": (1, 7)[entry["id"] % 2], "mine": 1}
    (folder / "all.json").write_bytes(json.dumps(truth).encode(encoding))
    images = ["--images", folder / "images"] if encoding == "utf-16" else []
    run("split", folder / "all.json", *images, "--fraction", 0.3, "--output", tmp_path / "two parts")
    words = shlex.split(capsys.readouterr().out.partition("train by ")[2])
    data = dict(zip((word.removeprefix("--data.") for word in words[::2]), words[1::2], strict=True))
    assert data["train_images"] == data["val_images"] == str(folder / "images")
    whole = {"train_annotations": str(folder / "all.json"), "train_images": str(folder / "images")}
    both(EvalDataSettings(**whole, val_fraction=0.3), EvalDataSettings(**data))
    written = [json.loads((tmp_path / "two parts" / f"{name}.json").read_text()) for name in ("train", "val")]
    assert sum(len(part["annotations"]) for part in written) == 12
    assert all(entry["mine"] for part in written for entry in part["annotations"])


def test_split_names_an_annotation_without_an_image(tmp_path: Path) -> None:
    truth = coco(*(image(tmp_path / f"{number}.jpg", number).name for number in range(4)))
    truth["annotations"].append({"id": 9, "category_id": 1, "bbox": []})  # read as an empty box
    text(tmp_path / "all.json", json.dumps(truth))
    with pytest.raises(UserError, match=r"all\.json: annotations\[4\] has no image_id"):
        run("split", tmp_path / "all.json", "--fraction", 0.3, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [("convert", "--to", "voc"), ("split", "--fraction", 0.3)])
def test_all_faults_can_be_seen(words: tuple, tmp_path: Path) -> None:
    image(tmp_path / "data" / "a.jpg")
    text(tmp_path / "data" / "a.txt", "0 0.5 0.5 0.1 0.1\n" + "0 0.1 0.2 0.3\n" * 25)
    with pytest.raises(UserError, match=r"out-faults\.txt lists them all"):
        run(words[0], tmp_path / "data", *words[1:], "--output", tmp_path / "out")
    assert len((tmp_path / "out-faults.txt").read_text().splitlines()) == 25
    assert not (tmp_path / "out").exists()


def test_split_of_labels_that_lists_do_not_lead_to(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "data"
    for number in range(12):
        image(folder / f"{number}.jpg", 5 * number)
        text(folder / "labels" / f"{number}.txt", f"{1 + number % 2} 0.5 0.5 0.1 0.1\n")
    text(folder / "labels" / "classes.txt", "background\ncat\ndog\n")
    run("split", folder, "--fraction", 0.3, "--output", tmp_path / "parts")
    words = shlex.split(capsys.readouterr().out.partition("train by ")[2])
    data = dict(zip((word.removeprefix("--data.") for word in words[::2]), words[1::2], strict=True))
    both(EvalDataSettings(path=str(folder), val_fraction=0.3), EvalDataSettings(**data))


def test_convert_may_skip_what_is_bad(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for split, start in (("train", 0), ("val", 3)):
        for number in range(start, start + 3):
            image(tmp_path / "data" / "images" / split / f"{number}.jpg", 5 * number)
            text(tmp_path / "data" / "labels" / split / f"{number}.txt", "0 0.5 0.5 0.1 0.1\n")
    text(tmp_path / "data/labels/train/0.txt", "0 0.5 0.5 0.1 0.1\n1 0.5\n")
    text(tmp_path / "data/images/val/3.jpg", "no image")
    words = ("convert", tmp_path / "data", "--to", "coco", "--output", tmp_path / "out")
    with pytest.raises(UserError, match="2 faults"):
        run(*words)
    assert not (tmp_path / "out").exists()
    run(*words, "--skip_bad", "true")
    assert "skip_bad left out: 2 entries and images" in capsys.readouterr().out
    assert len((tmp_path / "out" / "faults.txt").read_text().splitlines()) == 2
    back = {split: read_annotations(EvalDataSettings(path=str(tmp_path / "out")), split) for split in ("train", "val")}
    assert [len(found.images) for found in back.values()] == [3, 2]
    assert [len(found.truth.bbox) for found in back.values()] == [3, 2]
    text(tmp_path / "data/images/val/4.jpg", "no image")
    text(tmp_path / "data/images/val/5.jpg", "no image")
    with pytest.raises(UserError, match="4 faults"):
        run(*words[:-1], tmp_path / "other", "--skip_bad", "true")


def test_convert_counts_the_segmentations_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    truth = coco(*(image(tmp_path / name, ord(name[0]) - 90).name for name in ("a.jpg", "b.jpg")))
    truth["annotations"][0]["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    truth["annotations"][1]["segmentation"] = []
    text(tmp_path / "all.json", json.dumps(truth))
    run("convert", tmp_path, "--to", "coco", "--output", tmp_path / "out")
    assert "note: 1 segmentations left out: boxes alone are written" in capsys.readouterr().out


def test_convert_refuses_damaged_photos(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        image(tmp_path / "data" / name, ord(name[0]) - 90)
    text(tmp_path / "data" / "all.json", json.dumps(coco("a.jpg", "b.jpg")))
    cut = (tmp_path / "data" / "b.jpg").read_bytes()
    (tmp_path / "data" / "b.jpg").write_bytes(cut[: len(cut) // 2])
    words = ("convert", tmp_path / "data", "--to", "voc", "--output", tmp_path / "out")
    with pytest.raises(UserError, match=r"b\.jpg: not an image, or one that is damaged"):
        run(*words)
    run(*words, "--skip_bad", "true")
    assert len(read_annotations(EvalDataSettings(path=str(tmp_path / "out")), "train").images) == 1


@pytest.mark.parametrize("format", ["coco", "folders", "data.yaml", "voc"])
def test_what_is_split_already_names_its_parts(format: str, tmp_path: Path) -> None:
    folder = tmp_path / "my data"
    for split, start in (("train", 0), ("val", 6)):
        names = [f"{number}.jpg" for number in range(start, start + 6)]
        for number, name in enumerate(names, start):
            image(folder / ("JPEGImages" if format == "voc" else f"images/{split}") / name, 5 * number)
            if format == "voc":
                text(folder / "Annotations" / f"{number}.xml", xml(("cat", 1, 1, 9, 9)))
            elif format != "coco":
                text(folder / "labels" / split / f"{number}.txt", "0 0.5 0.5 0.1 0.1\n")
        if format == "coco":
            text(folder / "annotations" / f"instances_{split}.json", json.dumps(coco(*names)))
        if format == "voc":
            text(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{name[:-4]}\n" for name in names))
    if format == "data.yaml":
        text(folder / "data.yaml", "train: images/train\nval: images/val\nnames: [cat]\n")
    with pytest.raises(UserError, match="has the splits train, val already; to divide one") as raised:
        run("split", folder, "--fraction", 0.5, "--output", tmp_path / "out")
    (part,) = shlex.split(str(raised.value).partition("such as divdet split ")[2].removesuffix(" …"))
    run("split", part, "--fraction", 0.5, "--output", tmp_path / "out")
    assert (tmp_path / "out").is_dir()


def test_faults_of_one_run_have_paths_of_one_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, start in (("train", 0), ("val", 3)):
        for number in range(start, start + 2):
            image(tmp_path / "data/images" / split / str(number) / f"{number}.jpg", 5 * number)
            text(tmp_path / "data/labels" / split / str(number) / f"{number}.txt", "0 0.5 0.5 0.1 0.1\n0 1\n")
        text(tmp_path / f"data/images/{split}/{start}/{start}.jpg", "no image")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as raised:
        run("convert", "data", "--to", "coco", "--output", "out")
    assert len(raised.value.faults) == 4
    assert not any(Path(fault.file).is_absolute() for fault in raised.value.faults)
    assert not any(Path(fault.file).is_absolute() for fault in check_data(EvalDataSettings(path="data"), NAMES).faults)
