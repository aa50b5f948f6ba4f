import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from detection.data.synthetic import CATEGORY_IDS, crop, generate
from detection.data.synthetic_scenes import (
    CLASS_NAMES,
    MIN_VISIBLE,
    OBJECTS,
    SceneObject,
    draw_background,
    draw_scene,
    paint,
    place_objects,
)
from divdet.engine.errors import UserError


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generated")
    generate(path, train_images=8, val_images=3, seed=5, image_size=160)
    return path


@pytest.mark.parametrize("seed", range(6))
def test_boxes_are_tight_around_the_pixels_that_change_when_the_object_is_painted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    background = np.full((220, 260, 3), 128, np.uint8)
    for item in place_objects(rng, 220, 260):
        unhidden = item._replace(visible=item.alpha >= 128)
        painted = background.copy()
        paint(rng, painted, item)
        change = np.abs(painted.astype(int) - 128).max(-1)
        rows, columns = np.where(change > 0.15 * change.max())  # a dark rim or a thin tip stands out less
        x1, y1, x2, y2 = unhidden.box
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(found - [x1, y1, x2, y2]).max() <= 2


def test_box_is_of_the_visible_part_with_exclusive_end() -> None:
    visible = np.zeros((9, 9), bool)
    visible[2:5, 3:8] = True
    assert SceneObject(0, np.zeros((9, 9), np.uint8), visible, 15).box.tolist() == [3, 2, 8, 5]


@pytest.mark.parametrize("seed", range(10))
def test_scenes_hold_one_to_eight_objects_none_hidden_by_more_than_its_share(seed: int) -> None:
    objects = place_objects(np.random.default_rng(seed), 200, 300)
    assert 1 <= len(objects) <= OBJECTS[1]
    for index, item in enumerate(objects):
        in_front = np.zeros((200, 300), bool)
        for other in objects[index + 1 :]:
            in_front |= other.alpha >= 128
        assert np.array_equal(item.visible, (item.alpha >= 128) & ~in_front)
        assert item.visible.sum() >= MIN_VISIBLE * item.full_area


def test_full_area_counts_the_whole_outline() -> None:
    items = [item for seed in range(30) for item in place_objects(np.random.default_rng(seed), 300, 300)]
    cut = [item for item in items if item.alpha[[0, -1]].any() or item.alpha[:, [0, -1]].any()]
    whole = [item for item in items if not any(item is other for other in cut)]
    assert {item.label for item in whole} == set(range(len(CLASS_NAMES)))
    assert all(item.full_area == (item.alpha >= 128).sum() for item in whole)
    assert sum(item.full_area > 1.1 * (item.alpha >= 128).sum() for item in cut) > 5


def test_scenes_vary_in_shape_size_and_class() -> None:
    scenes = [draw_scene(np.random.default_rng(seed), 200) for seed in range(30)]
    ratios = [image.shape[1] / image.shape[0] for image, _ in scenes]
    objects = [(item, image) for image, items in scenes for item in items]
    sides = [(item.box[2:] - item.box[:2]).max() / min(image.shape[:2]) for item, image in objects]
    assert min(ratios) < 0.8
    assert max(ratios) > 1.25
    assert min(sides) < 0.15
    assert 0.45 < max(sides) < 0.58
    assert {item.label for item, _ in objects} == set(range(len(CLASS_NAMES)))


def test_background_does_not_depend_on_objects_and_stays_uint8() -> None:
    background = draw_background(np.random.default_rng(1), 90, 120)
    assert background.shape == (90, 120, 3)
    assert background.dtype == np.uint8
    assert background.std() > 3


def test_crop_of_a_box_is_its_square_with_a_margin() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    image[40:60, 30:70] = 255  # 40 wide: the square is 48 wide, 64 / 48 pixels each
    rows, columns = np.where(crop(image, np.array([30, 40, 70, 60]))[..., 0] > 127)
    assert [columns.min(), columns.max() + 1] == pytest.approx([32 - 80 / 3, 32 + 80 / 3], abs=1)
    assert [rows.min(), rows.max() + 1] == pytest.approx([32 - 40 / 3, 32 + 40 / 3], abs=1)


@pytest.mark.parametrize(("split", "count"), [("train", 8), ("val", 3)])
def test_data_set_reads_as_coco(folder: Path, split: str, count: int) -> None:
    coco = COCO(folder / f"annotations/instances_{split}.json")
    assert [category["id"] for category in coco.loadCats(coco.getCatIds())] == list(CATEGORY_IDS)
    assert len(coco.getImgIds()) == count
    assert min(coco.getAnnIds()) == 1
    crops = {name: len(list((folder / "crops" / split / name).glob("*.jpg"))) for name in CLASS_NAMES}
    for record in coco.loadImgs(coco.getImgIds()):
        image = cv2.imread(str(folder / "images" / split / record["file_name"]))
        assert image.shape == (record["height"], record["width"], 3)
        annotations = coco.loadAnns(coco.getAnnIds(record["id"]))
        assert annotations
        for item in annotations:
            x, y, width, height = item["bbox"]
            assert x >= 0
            assert y >= 0
            assert x + width <= record["width"]
            assert y + height <= record["height"]
            assert 0 < item["area"] <= width * height
            assert item["iscrowd"] == 0
            crops[coco.cats[item["category_id"]]["name"]] -= 1
    assert set(crops.values()) == {0}


def test_images_depend_on_seed_split_and_index_only(folder: Path, tmp_path: Path) -> None:
    generate(tmp_path / "fewer", train_images=2, val_images=3, seed=5, image_size=160)
    generate(tmp_path / "other", train_images=1, val_images=1, seed=6, image_size=160)
    reference, fewer, other = (_digests(path) for path in (folder, tmp_path / "fewer", tmp_path / "other"))
    images = {name for name in fewer if name.endswith(".jpg")}
    assert len([name for name in images if name.startswith("images")]) == 5
    assert all(reference[name] == fewer[name] for name in images)
    assert reference["annotations/instances_val.json"] == fewer["annotations/instances_val.json"]
    alone, _ = draw_scene(np.random.default_rng((5, 0, 7)), 160)
    file = cv2.imencode(".jpg", alone[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
    assert (folder / "images/train/000008.jpg").read_bytes() == file
    first = [data[f"images/{split}/000001.jpg"] for data in (reference, other) for split in ("train", "val")]
    assert len(set(first)) == 4


def test_complete_set_is_kept_and_a_broken_or_different_one_replaced(tmp_path: Path) -> None:
    arguments = {"train_images": 2, "val_images": 1, "image_size": 96}
    generate(tmp_path, **arguments)
    before, image = _digests(tmp_path), tmp_path / "images/train/000001.jpg"
    stamp = image.stat().st_mtime_ns
    generate(tmp_path, **arguments)
    assert image.stat().st_mtime_ns == stamp

    mark = tmp_path / "generated.json"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"complete": False}))
    image.unlink()
    generate(tmp_path, **arguments)
    assert _digests(tmp_path) == before

    generate(tmp_path, train_images=1, val_images=1, image_size=96)
    assert len(list((tmp_path / "images/train").iterdir())) == 1


def test_folder_with_other_files_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/holiday.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="holds files"):
        generate(tmp_path, 1, 1)
    assert (tmp_path / "images/holiday.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize("arguments", [(0, 1), (1, 0), (1, 1, -1), (1, 1, 0, 10)])
def test_arguments_out_of_range_are_refused(tmp_path: Path, arguments: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="at least"):
        generate(tmp_path, *arguments)
