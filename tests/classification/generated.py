"""Small labelled images: each class has its own colour and stripes, each image its own noise."""

from pathlib import Path

import cv2
import numpy as np

CLASSES = ["blue", "green", "red"]


def generated_images(count: int, size: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 RGB [count,size,size,3] and labels int64 [count]."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    images = random.normal(90, 25, (count, size, size, 3))
    for image, label in zip(images, labels, strict=True):
        image[..., 2 - label] += 90
        image[:: 2 + label] -= 30
    return images.clip(0, 255).astype(np.uint8), labels


def encoded(image: np.ndarray, suffix: str = ".png") -> np.ndarray:
    """The bytes of an image file."""
    return cv2.imencode(suffix, image[..., ::-1])[1].ravel()


def write_npz(path: Path, train: int = 24, test: int = 12, suffix: str = ".png", **replaced: np.ndarray) -> Path:
    """An .npz file of generated images; ``replaced`` arrays take the place of its own, None removes one."""
    arrays: dict[str, np.ndarray | None] = {"classes": np.array(CLASSES)}
    for seed, (split, count) in enumerate({"train": train, "test": test}.items()):
        images, labels = generated_images(count, seed=seed)
        files = [encoded(image, suffix) for image in images]
        arrays[f"{split}_bytes"] = np.concatenate(files)
        arrays[f"{split}_offsets"] = np.cumsum([0, *map(len, files)])
        arrays[f"{split}_labels"] = labels.astype(np.int16)
    np.savez(path, **{key: value for key, value in (arrays | replaced).items() if value is not None})
    return path


def write_folder(root: Path, count: int = 12, size: int = 16) -> Path:
    """A folder with train/ and val/, a folder per class in each."""
    for seed, split in enumerate(("train", "val")):
        for i, (image, label) in enumerate(zip(*generated_images(count, size, seed), strict=True)):
            path = root / split / CLASSES[label] / f"{i:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(image).tobytes())
    return root
