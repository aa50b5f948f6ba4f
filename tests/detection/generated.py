"""A small generated data set for detectors."""

from pathlib import Path

from detection.data.synthetic import generate
from detection.settings import DataSettings


def shapes(folder: Path) -> DataSettings:
    """Writes 8 training and 5 validation images of shapes into ``folder``."""
    generate(folder, 8, 5, seed=0)
    images, annotations = folder / "images", folder / "annotations"
    return DataSettings(
        val_annotations=str(annotations / "instances_val.json"),
        val_images=str(images / "val"),
        train_annotations=str(annotations / "instances_train.json"),
        train_images=str(images / "train"),
    )
