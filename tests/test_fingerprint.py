"""Fingerprints of data change with the data, and with nothing else."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np

from classification.data.datasets import load_images
from classification.settings import EvalDataSettings
from detection.data.coco import load_annotations
from divdet.engine.fingerprint import digest, file_sizes
from tests.classification.generated import write_folder, write_npz


def test_objects(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"image")
    images = [{"id": i, "file_name": name, "width": 9, "height": 9} for i, name in enumerate(("a.png", "b.png"))]
    objects = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 3, 3], "area": 9, "iscrowd": 0}]
    truth = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]}

    def found(changed: dict, where: Path = folder) -> str:
        (where / "truth.json").write_text(json.dumps(changed))
        return load_annotations(where / "truth.json", where).fingerprint()

    whole = found(truth)
    assert found(truth | {"info": {"year": 2026}}) == whole
    shutil.copytree(folder, tmp_path / "copy")
    os.utime(tmp_path / "copy/a.png", (0, 0))
    assert found(truth, tmp_path / "copy") == whole
    changes = ({"bbox": [1, 1, 3, 4]}, {"area": 8}, {"iscrowd": 1}, {"image_id": 1})
    others = {found(truth | {"annotations": [objects[0] | change]}) for change in changes}
    others.add(found(truth | {"images": images[:1]}))
    others.add(found(truth | {"categories": [{"id": 1, "name": "dog"}]}))
    (folder / "b.png").write_bytes(b"another")
    others.add(found(truth))
    assert len(others - {whole}) == 7


def test_classes(tmp_path: Path) -> None:
    def found(root: Path) -> str:
        return load_images(EvalDataSettings("npz" if root.suffix else "folder", str(root)), "train").fingerprint()

    folder, npz = write_folder(tmp_path / "data"), write_npz(tmp_path / "images.npz")
    wholes = found(folder), found(npz)
    shutil.copytree(folder, tmp_path / "copy")
    assert found(tmp_path / "copy") == wholes[0]
    arrays = dict(np.load(npz))
    np.savez(npz, **arrays)
    assert found(npz) == wholes[1]
    np.savez(npz, **arrays | {"train_bytes": arrays["train_bytes"] ^ 1})
    assert found(npz) != wholes[1]
    image = next((folder / "train").rglob("*.png"))
    image.rename(image.with_name("other.png"))
    assert found(folder) != wholes[0]


def test_it_takes_seconds_for_as_many_files_as_coco_has(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    began = time.perf_counter()
    digest([(i, f"{i:012d}.jpg", 640, 480) for i in range(118_000)], file_sizes([tmp_path / "a.jpg"] * 118_000))
    assert time.perf_counter() - began < 10
