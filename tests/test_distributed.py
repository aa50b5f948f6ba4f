"""Both tasks in several processes against one: the same losses, weights and metrics.

In float64: float32's rounding decides between negatives of nearly equal scores, and moves a step's loss by up to 1e-4
(benchmarks/processes.py has both).
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from classification.settings import ClassificationTrainSettings, ModelSettings, TrainClassification
from classification.settings import DataSettings as ClassificationData
from detection import settings as detection
from divdet.engine.cli import to_yaml
from tests.classification.generated import write_npz
from tests.detection.generated import shapes
from tests.processes import column, run

STEPS = 3
HALF = "--train.batch_size=4"


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe for each task: epochs of one step, so that each line is a step's loss."""
    folder = tmp_path_factory.mktemp("recipes")
    train = {"epochs": STEPS, "evaluate_every": STEPS, "workers": 0, "precision": "float32"}
    classifier = TrainClassification(
        ModelSettings("resnet10_16", 2),
        ClassificationData("npz", str(write_npz(folder / "images.npz", train=8, test=7)), image_size=16),
        ClassificationTrainSettings(**train, batch_size=8, lr=0.01, cot_warmup_epochs=2),
        device="cpu",
    )
    (folder / "train_cls.yaml").write_text(to_yaml(classifier))
    data = shapes(folder / "shapes", train=4, val=3)
    detector = detection.TrainDetection(
        detection.ModelSettings("resnet10_16", 2),
        data,
        detection.DetectionTrainSettings(**train, batch_size=4, lr=1e-4, clip_gradient=20.0),
        device="cpu",
        report=False,
    )
    (folder / "train_det.yaml").write_text(to_yaml(detector))
    return folder


def trained(recipes: Path, tool: str, name: str, *arguments: str, processes: int = 1) -> Path:
    """The folder of a run, which is made where it does not exist yet."""
    output = recipes / f"{tool}-{name}"
    if not output.exists():
        config = recipes / f"{tool}.yaml"
        run(f"{tool}.py", "--config", config, "--output", output, *arguments, processes=processes, double=True)
    return output


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.pt", weights_only=True)["model"]


def check_equal(one: Path, many: Path) -> None:
    """Every step's losses, the metrics at the end, and the weights."""
    losses = {name for name in read_line(one) if name.startswith("train_")}
    assert len(losses) > 1
    for name in losses:
        np.testing.assert_allclose(column(many, name), column(one, name), rtol=1e-9, atol=1e-9)
    # The members' metrics, too; a learning rate may be another's where batches are fewer
    ends = [{name: value for name, value in read_line(folder).items() if name != "lr"} for folder in (one, many)]
    assert ends[1] == pytest.approx(ends[0], rel=1e-6)
    first, second = weights(one), weights(many)
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-6, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")


def read_line(folder: Path) -> dict:
    return yaml.safe_load((folder / "metrics.jsonl").read_text().splitlines()[-1])


def test_two_processes_with_half_the_batch_learn_as_one(recipes: Path) -> None:
    one = trained(recipes, "train_cls", "one")
    two = trained(recipes, "train_cls", "two", HALF, "--train.batch_norm=sync", processes=2)
    check_equal(one, two)
    assert column(two, "epoch") == list(range(1, STEPS + 1))
    assert len((two / "metrics.csv").read_text().splitlines()) == 1 + STEPS  # one process logs
    assert len(list(two.glob("events.*"))) == 1


def test_members_on_processes_of_their_own_learn_as_in_one(recipes: Path) -> None:
    one = trained(recipes, "train_cls", "one")
    check_equal(one, trained(recipes, "train_cls", "members", "--train.member_parallel=true", processes=2))


def test_members_and_replicas_of_a_detector_together(recipes: Path) -> None:
    arguments = ("--train.batch_size=2", "--train.batch_norm=sync", "--train.member_parallel=true")
    check_equal(trained(recipes, "train_det", "one"), trained(recipes, "train_det", "both", *arguments, processes=4))


def test_detectors_members_co_train_across_processes(recipes: Path) -> None:
    """By AdamW, with mixed images of several sizes, rare classes more often, weights by class, and a frozen stem."""
    arguments = ("--train.cot_weight=0.5", "--train.cot_warmup_epochs=2", "--data.different_views=true")
    arguments += ("--data.mosaic=0.5", "--data.mixup=0.5", "--data.class_balanced=0.9", "--train.class_weights=auto")
    arguments += ("--train.backbone_lr=0.5", "--train.freeze=1", "--train.min_steps=4", "--train.multi_scale=0.3")
    arguments += ("--train.optimizer=adamw",)
    one = trained(recipes, "train_det", "cot", *arguments)
    check_equal(one, trained(recipes, "train_det", "cot-many", *arguments, "--train.member_parallel=true", processes=2))


def test_accumulated_batches_are_one_batch_where_statistics_are_frozen(recipes: Path) -> None:
    common = ("--train.batch_norm=frozen", "--train.ema_decay=0.9", "--train.lr=0.005")
    one = trained(recipes, "train_cls", "frozen", *common)
    arguments = (*common, "--train.batch_size=2", "--train.accumulate=2")
    check_equal(one, trained(recipes, "train_cls", "accumulated", *arguments, processes=2))


def test_a_run_that_stopped_early_goes_on_in_two_processes_as_the_main_one_says(recipes: Path, tmp_path: Path) -> None:
    """Nothing is learnt, so no evaluation is better than the first: patience 1 ends 7 epochs of 2 steps after 2.

    The others have 1 step, and are still 7. Only the main process sees that the validation data have changed, so that
    what was best and waited does not count: both end three evaluations later.
    """
    data = tmp_path / "images.npz"
    arguments = ("--config", recipes / "train_cls.yaml", "--output", tmp_path / "run", f"--data.root={data}")
    arguments += ("--train.lr=0", "--train.batch_norm=frozen", "--train.batch_size=4", "--train.evaluate_every=1")
    arguments += ("--train.epochs=7", "--train.min_steps=14", "--resume=auto")
    write_npz(data, train=8, test=7)
    printed = run("train_cls.py", *arguments, "--train.patience=1")
    assert "stopped after epoch 2 of 7: no better top1" in printed
    write_npz(data, train=8, test=5)
    printed = run("train_cls.py", *arguments, "--train.patience=2", processes=2)
    assert "best.pt starts anew" in printed
    assert "stopped after epoch 5 of 7: no better top1" in printed
    assert column(tmp_path / "run", "epoch") == [1, 2, 3, 4, 5]
