"""Files of one image: label files read back, crops by class, members' panels."""

from pathlib import Path

import numpy as np
import torch

from detection import outputs
from detection.data.formats.read import read_annotations
from detection.detections import Detections
from detection.drawing import save_image
from detection.images import read_image
from detection.settings import EvalDataSettings

NAMES = ["cat", 'a/b "x", y']


def found_in(image: np.ndarray) -> Detections:
    boxes = torch.tensor([[2.0, 4.0, 22.0, 24.0], [30.0, 10.0, 50.0, 30.0]])
    return Detections(boxes, torch.tensor([0.9, 0.25]), torch.tensor([1, 0]), [NAMES[1], NAMES[0]], source=image)


def test_label_files_are_read_back(tmp_path: Path) -> None:
    image = np.zeros((40, 64, 3), np.uint8)
    outputs.save_files(["yolo"], tmp_path, "a", image, found_in(image), NAMES)
    rows = np.loadtxt(tmp_path / "labels/a.txt")
    assert rows[:, 0].tolist() == [1, 0]
    assert np.allclose(rows[0, 1:5], [12 / 64, 14 / 40, 20 / 64, 20 / 40], atol=1e-6)

    (tmp_path / "images").mkdir()
    save_image(tmp_path / "images/a.png", image)
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [cat, other]\n")
    read = read_annotations(EvalDataSettings(path=str(tmp_path / "data.yaml")), "val", need_images=True)
    assert read.truth.label.tolist() == [1, 0]
    assert np.allclose(read.truth.bbox, [[2, 4, 20, 20], [30, 10, 20, 20]], atol=1e-3)


def test_an_image_without_objects_has_an_empty_label_file(tmp_path: Path) -> None:
    image = np.zeros((40, 64, 3), np.uint8)
    outputs.save_files(["yolo", "crops"], tmp_path, "a", image, found_in(image)[:0], NAMES)
    assert (tmp_path / "labels/a.txt").read_text() == ""
    assert not (tmp_path / "crops").exists()


def test_crops_lie_in_the_folder_of_their_class(tmp_path: Path) -> None:
    image = np.zeros((40, 64, 3), np.uint8)
    image[10:30, 30:50] = 200
    outputs.save_files(["crops"], tmp_path, "a", image, found_in(image), NAMES)
    folders = sorted(path.name for path in (tmp_path / "crops").iterdir())
    assert folders == ["a_b _x__ y", "cat"]
    crop = read_image(next((tmp_path / "crops/cat").iterdir()))
    assert crop.shape == (20, 20, 3)
    assert abs(crop.astype(int) - 200).max() <= 3
