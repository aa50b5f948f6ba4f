"""The check before the first step: every fault of both splits in one run, what is left out, and what is only noted."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from detection.data import image_index
from detection.data.faults import DataError
from detection.data.prepare import FAULTS, read_splits, read_validation
from detection.settings import DataSettings
from divdet.engine.errors import UserError


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image_index._folder.cache_clear()


class Data:
    """Photos train_0.jpg … and val_0.jpg … of 40 x 30 pixels with one box each, in one folder."""

    def __init__(self, folder: Path, training: int = 12, validation: int = 6) -> None:
        self.folder = folder
        self.settings = DataSettings()
        folder.mkdir()
        self.truth = {split: self._make(split, n) for split, n in (("train", training), ("val", validation))}
        self.write()

    def _make(self, split: str, count: int) -> dict[str, list]:
        random = np.random.default_rng(len(split))
        images, annotations = [], []
        for number in range(count):
            name = f"{split}_{number}.jpg"
            cv2.imwrite(str(self.folder / name), random.integers(0, 255, (30, 40, 3), np.uint8))
            images.append({"id": number + 1, "file_name": name, "width": 40, "height": 30})
            annotations.append({"id": number + 1, "image_id": number + 1, "category_id": 1, "bbox": [5, 5, 20, 15]})
        return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}

    def write(self) -> None:
        for split, truth in self.truth.items():
            file = self.folder / f"{split}.json"
            file.write_text(json.dumps(truth))
            setattr(self.settings, f"{split}_annotations", str(file))
            setattr(self.settings, f"{split}_images", str(self.folder))

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.jpg"

    def cut(self, name: str) -> None:
        whole = self.file(name).read_bytes()
        self.file(name).write_bytes(whole[: len(whole) // 2])


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path / "data")


def faults_of(data: Data, folder: Path) -> list[tuple[str, str, str]]:
    """The lines of faults.txt, which are those of the error."""
    with pytest.raises(DataError) as caught:
        read_splits(data.settings, folder)
    lines = [tuple(line.split("\t")) for line in (folder / FAULTS).read_text().splitlines()]
    assert lines == [tuple(fault) for fault in caught.value.faults]
    return lines


def test_sound_data_has_no_faults(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training, validation = read_splits(data.settings, tmp_path / "run")
    assert (len(training.images), len(validation.images)) == (12, 6)
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out.count("\n") == 2


def test_one_run_names_all_faults(data: Data, tmp_path: Path) -> None:
    data.cut("train_0")
    data.cut("val_1")
    data.file("train_2").write_bytes(b"")
    data.file("val_2").write_text("<html>404</html>")
    data.file("train_3").unlink()
    data.file("train_4").unlink()
    data.file("train_4").mkdir()
    data.truth["train"]["images"][5]["width"] = 50
    data.truth["val"]["annotations"][3]["bbox"] = [1, 2, 3]
    shutil.copyfile(data.file("val_4"), data.file("train_6"))
    data.write()
    faults = faults_of(data, tmp_path / "run")
    expected = {
        "train_0.jpg": "damaged or cut off",
        "val_1.jpg": "damaged or cut off",
        "train_2.jpg": "is empty",
        "val_2.jpg": "not an image",
        "'train_3.jpg'": "is not in",
        "'train_4.jpg'": "is not in",
        "train_5.jpg": "40x30 pixels, but its annotations say 50x30",
        "annotations[3]": "has bbox",
        "train_6.jpg": f"validation has the same as {data.file('val_4')}",
    }
    assert len(faults) == len(expected)
    for name, what in expected.items():
        assert any(name in "".join(fault) and what in fault[2] for fault in faults), name


@pytest.mark.parametrize("count", [8, 32])
def test_as_many_faults_as_there_are(count: int, tmp_path: Path) -> None:
    data = Data(tmp_path / "data", 40, 4)
    for number in range(count):
        data.cut(f"train_{number}")
    with pytest.raises(DataError) as caught:
        read_splits(data.settings, tmp_path / "run")
    names = [fault.file for fault in caught.value.faults]
    assert names == [str(data.file(f"train_{number}")) for number in range(count)]
    shown = str(caught.value).splitlines()
    if count == 8:
        assert len(shown) == 1 + 8
    else:  # of one cause
        assert len(shown) == 3
        assert (
            f"train_0.jpg: not an image, or one that is damaged or cut off; replace the file (and {count - 1} more"
            in shown[1]
        )
        assert shown[2] == f"  {tmp_path / 'run' / FAULTS} lists them all"


def test_a_file_that_is_no_json_and_faults_in_the_other_come_together(data: Data, tmp_path: Path) -> None:
    data.cut("val_1")
    Path(data.settings.train_annotations).write_text("not JSON")
    with pytest.raises(DataError) as caught:
        read_splits(data.settings, tmp_path / "run")
    assert [Path(fault.file).name for fault in caught.value.faults] == ["train.json", "val_1.jpg"]
    with pytest.raises(DataError, match=r"^\S*train\.json: .*; data\.skip_bad cannot leave this out$"):
        read_splits(replace(data.settings, skip_bad=True), tmp_path / "run")


def test_a_category_is_not_skipped_and_has_one_fault(data: Data, tmp_path: Path) -> None:
    data.cut("val_1")
    for split in ("train", "val"):
        data.truth[split]["categories"].append({"id": 2, "name": "owl"})
    data.truth["train"]["categories"].append({"id": 2, "name": "fox"})
    data.write()
    with pytest.raises(DataError) as caught:
        read_splits(data.settings, tmp_path / "run")
    assert [Path(fault.file).name for fault in caught.value.faults] == ["train.json", "val_1.jpg"]
    with pytest.raises(DataError, match=r"^\S*train\.json: .*; data\.skip_bad cannot leave this out$"):
        read_splits(replace(data.settings, skip_bad=True), tmp_path / "run")


def test_a_data_set_that_would_not_be_used_is_refused(data: Data) -> None:
    with pytest.raises(UserError, match=r"data\.path is other, but data\.train_annotations and .* name both splits"):
        read_splits(replace(data.settings, path="other"))


def test_a_file_named_like_a_setting_is_a_file(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data.json").write_text("not JSON")
    data.cut("val_1")
    with pytest.raises(DataError) as caught:
        read_splits(replace(data.settings, train_annotations="data.json"))
    assert [Path(fault.file).name for fault in caught.value.faults] == ["data.json", "val_1.jpg"]


def test_skip_bad_uses_what_is_sound(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data.cut("train_0")
    data.file("train_3").unlink()
    data.truth["train"]["images"][5]["width"] = 50
    shutil.copyfile(data.file("val_4"), data.file("train_6"))
    data.cut("val_1")
    data.write()
    training, validation = read_splits(replace(data.settings, skip_bad=True), tmp_path / "run")
    assert [image.file_name for image in training.images] == [f"train_{n}.jpg" for n in (1, 2, 4, 7, 8, 9, 10, 11)]
    assert [image.file_name for image in validation.images] == [f"val_{n}.jpg" for n in (0, 2, 3, 4, 5)]
    for split in (training, validation):
        assert split.truth.image.tolist() == list(range(len(split.images)))
        assert len(split.truth.bbox) == len(split.images)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("data.skip_bad")]
    for kind in ("images that cannot be decoded: 1", "annotated: 1", "validation has too: 1", "training entries: 1"):
        assert kind in line
    assert len((tmp_path / "run" / FAULTS).read_text().splitlines()) == 5


def test_nothing_sound_is_an_error(data: Data, tmp_path: Path) -> None:
    for number in range(6):
        data.cut(f"val_{number}")
    with pytest.raises(UserError, match=r"none of its validation images is sound"):
        read_splits(replace(data.settings, skip_bad=True), tmp_path / "run")


def test_mended_data_leave_no_list_of_faults(data: Data, tmp_path: Path) -> None:
    whole = data.file("train_0").read_bytes()
    data.cut("train_0")
    faults_of(data, tmp_path / "run")
    data.file("train_0").write_bytes(whole)
    read_splits(data.settings, tmp_path / "run")
    assert not (tmp_path / "run" / FAULTS).exists()


def test_without_check_no_image_is_decoded(data: Data, tmp_path: Path) -> None:
    data.cut("train_0")
    training, _ = read_splits(replace(data.settings, check=False), tmp_path / "run")
    assert len(training.images) == 12


def test_the_same_images_for_both_splits_are_meant(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = replace(data.settings, val_annotations=data.settings.train_annotations)
    training, validation = read_splits(settings, tmp_path / "run")
    assert len(training.images) == len(validation.images) == 12
    assert "note: validation has the same images as training" in capsys.readouterr().out


def test_other_categories_are_a_fault_beside_the_others(data: Data, tmp_path: Path) -> None:
    data.truth["val"]["categories"][0]["name"] = "dish"
    data.cut("val_0")
    data.write()
    faults = faults_of(data, tmp_path / "run")
    assert [Path(file).name for file, _, _ in faults] == ["val_0.jpg", "val.json"]


def note_of(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    read_splits(data.settings, tmp_path / "run")
    (note,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    return note


def copies(data: Data) -> None:
    for number in (3, 5):
        shutil.copyfile(data.file("train_1"), data.file(f"train_{number}"))


def deep(data: Data) -> None:
    for number, most in enumerate((1000, 4095, 60000)):
        name = f"train_{number}.png"
        cv2.imwrite(str(data.folder / name), np.full((30, 40), most, np.uint16))
        data.truth["train"]["images"][number]["file_name"] = name
    data.write()


def versions(data: Data) -> None:
    for split, number in (("train", 1), ("train", 2), ("val", 3)):
        name = f"photo_jpg.rf.{split}{number}.jpg"
        data.file(f"{split}_{number}").rename(data.folder / name)
        data.truth[split]["images"][number]["file_name"] = name
    data.write()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (copies, "training: 2 copies of other images"),
        (deep, "2 of the images have 16 bits and use at most 12"),
        (versions, "validation has versions of 1 training photos"),
    ],
)
def test_notes(change: Callable, expected: str, data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(data)
    assert expected in note_of(data, tmp_path, capsys)


def test_evaluation_checks_its_own_split(data: Data, tmp_path: Path) -> None:
    data.cut("train_0")
    assert len(read_validation(data.settings, tmp_path).images) == 6
    data.cut("val_0")
    data.cut("val_3")
    with pytest.raises(DataError) as caught:
        read_validation(data.settings, tmp_path)
    assert len(caught.value.faults) == 2


def test_settings_are_no_fault_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.train_annotations is not set") as caught:
        read_splits(DataSettings(), tmp_path)
    assert not isinstance(caught.value, DataError)
