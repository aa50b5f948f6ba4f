"""Values that no recipe can have."""

import pytest

from classification.settings import (
    ClassificationTrainSettings,
    DataSettings,
    EvaluateClassification,
    ModelSettings,
    TrainClassification,
)
from divdet.engine.errors import UserError
from divdet.engine.settings import check_range


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        (ModelSettings, "members", 0),
        (ModelSettings, "dropout", 1.0),
        (ModelSettings, "drop_path", -0.1),
        (DataSettings, "rand_augment_magnitude", 31),
        (DataSettings, "flip", 1.5),
        (DataSettings, "erasing", -0.1),
        (DataSettings, "padding", -1),
        (DataSettings, "image_size", 0),
        (DataSettings, "limit", 0),
        (ClassificationTrainSettings, "cot_weight", -1.0),
        (ClassificationTrainSettings, "cot_warmup_epochs", float("nan")),
        (ClassificationTrainSettings, "mixup", float("inf")),
        (ClassificationTrainSettings, "label_smoothing", 1.0),
        (ClassificationTrainSettings, "epochs", 0),
        (EvaluateClassification, "batch_size", 0),
        (TrainClassification, "seed", -1),
    ],
)
def test_values_out_of_range_are_refused_naming_the_key(section: type, key: str, value: object) -> None:
    with pytest.raises(UserError, match=key):
        section(**{key: value})


def test_download_is_for_cifar_alone() -> None:
    with pytest.raises(UserError, match=r"data\.download"):
        DataSettings(dataset="imagenet", download=True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-0.1, "x is -0.1: it must be at least 0 and below 1"),
        (1, "x is 1: it must be at least 0 and below 1"),
        (float("nan"), "x is nan: it must be at least 0 and below 1"),
    ],
)
def test_a_range_may_leave_out_its_end(value: float, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        check_range("x", value, 0, 1, below=True)


def test_a_range_has_its_ends_and_may_be_open() -> None:
    for value, most in ((0, 1), (1, 1), (None, 1), (1e9, float("inf"))):
        check_range("x", value, 0, most)
    for value, most, message in (
        (2, 1, "at least 0 and at most 1"),
        (float("inf"), float("inf"), "finite and at least 0"),
    ):
        with pytest.raises(UserError, match=f"{message}$"):
            check_range("x", value, 0, most)
