"""Every recipe's resolved fields against what the released networks were trained with (released_training.json)."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classification.backbones.registry import DATASETS
from classification.data.views import CROP_RATIO, network_inputs, random_rectangle
from classification.settings import TrainClassification
from detection.settings import TrainDetection
from divdet.engine.cli import flatten, parse, to_dict

ROOT = Path(__file__).parents[1]
FACTS = json.loads((Path(__file__).parent / "released_training.json").read_text(encoding="utf-8"))
DECISIONS = (ROOT / "docs/decisions.md").read_text(encoding="utf-8")
RECIPES = [path.stem for path in sorted((ROOT / "configs/cls").glob("*.yaml"))]
RECIPES = [name for name in RECIPES if name not in ("cifar10_small", "shapes_backbones")]
# The rows of the paper's tables that are recipes and words over them
COMMANDS = re.findall(r"`train_cls\.py (--config [^`]*)`", (ROOT / "docs/reproduce.md").read_text(encoding="utf-8"))
COMMANDS = [command for command in COMMANDS if "--model.backbone" not in command]  # Fig. 1 has other widths
# What rows of the tables are about, and so change
ABLATED = {
    "--train.cot_weight": "train.cot_weight",
    "--data.erasing": "data.erasing",
    "--train.mixup": "train.mixup",
    "--data.auto_augment": "data.auto_augment",
    "--train.schedule": "train.schedule",
    "--train.weight_decay_division": "train.weight_decay_division",
}


def facts(dataset: str, backbone: str, epochs: int) -> dict[str, Any]:
    """What the released network of this name was trained with, by field."""
    kind = dataset if dataset in FACTS["epochs"] else "cifar"
    found = {f"train.{key}": value for key, value in FACTS["train"].items()}
    found |= {f"train.{key}": value for key, value in FACTS["train_of"][dataset].items()}
    found |= {f"train.{key}": value for key, value in FACTS["epochs"][kind][str(epochs)].items()}
    found |= {f"data.{key}": value for key, value in FACTS["data"][dataset].items()}
    own = FACTS["networks"].get(kind, {}).get(backbone, {})
    return found | {key: value for key, value in own.items() if "." in key} | own.get(str(epochs), {})


def resolved(words: list[str]) -> dict[str, Any]:
    """The fields of a recipe, with what it leaves to the data set."""
    config = parse(TrainClassification, words)
    size = config.data.image_size or DATASETS[config.data.dataset].image_size
    inputs = network_inputs(config.data, size) | config.data.erased()
    inputs = {f"data.{key}": value for key, value in inputs.items()}
    return flatten(to_dict(config)) | inputs


def differences(found: dict[str, Any], expected: dict[str, Any], kind: str) -> list[str]:
    """Fields that differ from the facts without a row of docs/decisions.md."""
    explained = set()
    for deviation in FACTS["deviations"]:
        if kind in deviation["recipes"]:
            assert deviation["decision"] in DECISIONS
            explained |= set(deviation["fields"])
    return [
        f"{key} is {found[key]}, released {value}"
        for key, value in expected.items()
        if found[key] != value and key not in explained
    ]


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_those_of_the_released_networks(recipe: str) -> None:
    found = resolved(["--config", str(ROOT / f"configs/cls/{recipe}.yaml")])
    dataset = found["data.dataset"]
    assert not differences(found, facts(dataset, found["model.backbone"], found["train.epochs"]), dataset)


@pytest.mark.parametrize("command", COMMANDS)
def test_rows_of_the_tables_are_those_of_the_released_networks(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = command.split()
    found = resolved(words)
    dataset = found["data.dataset"]
    expected = facts(dataset, found["model.backbone"], found["train.epochs"])
    for flag in set(words) & set(ABLATED):
        del expected[ABLATED[flag]]
    assert not differences(found, expected, dataset)
    if found["train.schedule"] == "step":
        assert found["train.milestones"] == FACTS["milestones"][found["model.backbone"]]


def test_rows_of_1800_epochs_are_among_them() -> None:
    long = [command for command in COMMANDS if "--train.epochs 1800" in command]
    for backbone in ("se_resnet164", "resnext29_8x64d", "wrn28_10", "wrn40_10"):
        assert any(f"{backbone}.yaml --data.dataset cifar10" in command for command in long)


def test_other_numbers_can_be_reached() -> None:
    for recipe, milestones in FACTS["milestones"].items():
        words = ["--train.schedule", "step", "--train.milestones", str(milestones)]
        found = resolved(["--config", str(ROOT / f"configs/cls/{recipe}.yaml"), *words])
        assert found["train.milestones"] == milestones
    config = (ROOT / "configs/cls/efficientnet_b7.yaml").read_text()
    for name, values in FACTS["efficientnet_by_size"].items():
        listed = ", ".join(f"{value:g}".lstrip("0") for value in values)
        assert f"data.{name} ({listed})" in config


@pytest.mark.parametrize("path", sorted((ROOT / "configs/det").glob("coco_*.yaml")), ids=lambda path: path.stem)
def test_detectors_are_trained_as_the_released_ones(path: Path) -> None:
    found = flatten(to_dict(parse(TrainDetection, ["--config", str(path)])))
    expected = {f"train.{key}": value for key, value in FACTS["detection"]["train"].items()}
    expected |= {f"data.{key}": value for key, value in FACTS["detection"]["data"].items()}
    assert not differences(found, expected, "detection")


@pytest.mark.parametrize("recipe", RECIPES)
def test_erased_and_cropped_shares_lie_in_their_ranges(recipe: str) -> None:
    found = resolved(["--config", str(ROOT / f"configs/cls/{recipe}.yaml")])
    size, known = found["data.image_size"], FACTS["data"][found["data.dataset"]]
    drawn = rectangles(size, size, found["data.erasing_area"], found["data.erasing_ratio"])
    assert_in_ranges(drawn, size, size, known["erasing_area"], known["erasing_ratio"])
    if "crop_area" in known:
        drawn = rectangles(375, 500, found["data.crop_area"], CROP_RATIO)
        assert_in_ranges(drawn, 375, 500, known["crop_area"], CROP_RATIO)


def rectangles(height: int, width: int, area: list[float], ratio: list[float]) -> np.ndarray:
    """Heights and widths [n,2] of 2,000 draws, without the few that did not fit."""
    random = np.random.default_rng(0)
    found = [random_rectangle(height, width, area, ratio, random) for _ in range(2000)]
    return np.array([rectangle[2:] for rectangle in found if rectangle])


def assert_in_ranges(sides: np.ndarray, height: int, width: int, area: list[float], ratio: list[float]) -> None:
    """Sides are whole pixels, so that half a pixel on either side of the ranges is in them."""
    least, most = (sides - 0.5).prod(axis=1) / (height * width), (sides + 0.5).prod(axis=1) / (height * width)
    assert len(sides) > 1800
    assert (most >= area[0]).all()
    assert (least <= area[1]).all()
    share = sides.prod(axis=1) / (height * width)
    tenth = (area[1] - area[0]) / 10
    assert share.min() < area[0] + tenth + 0.01
    assert share.max() > area[1] - tenth - 0.01
    assert ((sides[:, 0] + 0.5) / (sides[:, 1] - 0.5) >= ratio[0]).all()
    assert ((sides[:, 0] - 0.5) / (sides[:, 1] + 0.5) <= ratio[1]).all()
