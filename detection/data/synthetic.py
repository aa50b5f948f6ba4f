"""A detection data set of drawn scenes in COCO format, generated without a download."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detection.data.synthetic_scenes import CLASS_NAMES, draw_scene
from divdet.engine.errors import UserError
from divdet.engine.files import write_json
from divdet.engine.progress import progress
from divdet.engine.settings import check_range

CATEGORY_IDS = (1, 2, 3, 5, 8, 13)  # with gaps, as COCO's
CROP_SIZE = 64
_SPLITS = ("train", "val")
_FORMAT = 2  # increase it when the same arguments give other images


def generate(folder: Path, train_images: int, val_images: int, seed: int = 0, image_size: int = 300) -> None:
    """Writes the data set, unless ``folder`` already holds it with the same arguments.

    ``folder`` gets ``images/{train,val}/*.jpg``, ``annotations/instances_{train,val}.json`` (COCO format),
    ``crops/{train,val}/<class name>/*.jpg`` (each object with a margin, 64 x 64 pixels, for classification) and
    ``generated.json`` (the arguments). Image i of a split depends only on ``seed``, the split, i and ``image_size``.

    Args:
        folder: new, empty, or filled by an earlier call, whose content is then replaced.
        train_images: size of the training split, at least 1.
        val_images: size of the validation split, at least 1.
        seed: at least 0.
        image_size: mean side of the images in pixels, at least 64.

    Raises:
        UserError: for arguments out of range, a folder with other files, or a failure to write.
    """
    check_range("train_images", train_images, 1)
    check_range("val_images", val_images, 1)
    check_range("seed", seed, 0)
    check_range("image_size", image_size, 64)
    counts = dict(zip(_SPLITS, (train_images, val_images), strict=True))
    parameters = {"format": _FORMAT, "images": counts, "seed": seed, "image_size": image_size}
    try:
        if _claim(folder, parameters):
            return
        for number, split in enumerate(_SPLITS):
            _write_split(folder, split, counts[split], (seed, number), image_size)
        write_json({**parameters, "complete": True}, folder / "generated.json")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error


def _claim(folder: Path, parameters: dict[str, Any]) -> bool:
    """Returns whether the folder holds the complete set; otherwise removes an earlier one and marks it as begun."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "generated.json"
    if mark.is_file():
        try:
            if json.loads(mark.read_text(encoding="utf-8")) == {**parameters, "complete": True}:
                return True
        except ValueError as error:
            raise UserError(f"{mark}: not readable as JSON; delete {folder} or choose another folder") from error
        for name in ("images", "annotations", "crops"):
            shutil.rmtree(folder / name, ignore_errors=True)
    elif any(folder.iterdir()):
        raise UserError(f"{folder}: holds files that were not generated here; choose a new or empty folder")
    write_json({**parameters, "complete": False}, mark)
    return False


def _write_split(folder: Path, split: str, count: int, seed: tuple[int, int], image_size: int) -> None:
    images = folder / "images" / split
    crops = [folder / "crops" / split / name for name in CLASS_NAMES]
    for path in (images, *crops, folder / "annotations"):
        path.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in progress(range(count), f"generating {split} images", "image"):
        image, objects = draw_scene(np.random.default_rng((*seed, index)), image_size)
        height, width = image.shape[:2]
        name = f"{index + 1:06d}"
        _write_jpeg(images / f"{name}.jpg", image)
        records.append({"id": index + 1, "file_name": f"{name}.jpg", "width": width, "height": height})
        for number, item in enumerate(objects):
            x1, y1, x2, y2 = item.box.tolist()
            ids = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": CATEGORY_IDS[item.label]}
            shape = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": int(item.visible.sum()), "iscrowd": 0}
            annotations.append(ids | shape)
            _write_jpeg(crops[item.label] / f"{name}_{number}.jpg", crop(image, item.box))
    categories = [
        {"id": key, "name": name, "supercategory": "shape"} for key, name in zip(CATEGORY_IDS, CLASS_NAMES, strict=True)
    ]
    dataset = {"images": records, "annotations": annotations, "categories": categories}
    write_json(dataset, folder / "annotations" / f"instances_{split}.json", indent=None)


def _write_jpeg(path: Path, image: np.ndarray) -> None:
    path.write_bytes(cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1])


def crop(image: np.ndarray, box: np.ndarray, margin: float = 0.1) -> np.ndarray:
    """Crops the square around ``box`` (xyxy pixels) plus a margin of its longer side, [64, 64, 3]; edges reflect."""
    side = max(float((box[2:] - box[:2]).max()), 1.0) * (1 + 2 * margin)
    scale = CROP_SIZE / side
    shift = CROP_SIZE / 2 - scale * (box[:2] + box[2:]) / 2
    # The center of pixel i is i + 0.5 in both images.
    matrix = np.array([[scale, 0, shift[0] + scale / 2 - 0.5], [0, scale, shift[1] + scale / 2 - 0.5]])
    if scale < 1:
        image = cv2.blur(image, (math.ceil(1 / scale),) * 2)
    return cv2.warpAffine(image, matrix, (CROP_SIZE, CROP_SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
