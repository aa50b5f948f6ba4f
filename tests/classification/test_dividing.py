"""Training that starts from slices of a trained network."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from classification.backbones.timm_models import note_other_division
from classification.evaluation import load_ensemble
from classification.settings import ModelSettings
from classification.training import CoTraining, train
from detection.models.ssd import create_ssd
from detection.settings import DetectionTrainSettings, TrainDetection
from detection.settings import ModelSettings as DetectorSettings
from detection.training.pretrained import load_slices
from detection.training.train import train as train_detector
from divdet.engine import checkpoint
from divdet.engine.errors import UserError
from tests.classification.generated import generated_images
from tests.classification.recipes import recipe

STEM = "members.{}.layer0.0.weight"


@pytest.fixture(scope="module")
def large(npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an undivided network."""
    config = recipe(npz, tmp_path_factory.mktemp("runs") / "large")
    train(replace(config, model=ModelSettings("resnet10_16", 1, "imagenet")))
    return Path(config.output) / "last.pt"


def filters(weight: torch.Tensor) -> list[bytes]:
    """The filters of a convolution, or rows of a linear layer, to compare."""
    return [one.numpy().tobytes() for one in weight]


def test_members_start_from_other_channels_of_the_network(large: Path, npz: Path, tmp_path: Path) -> None:
    config = recipe(npz, tmp_path / "two")
    config.model = ModelSettings("resnet10_16", 2, "imagenet", divide_from=str(large))
    config.train.lr = 0
    train(config)
    source, found = checkpoint.read(large)["model"], checkpoint.read(tmp_path / "two/last.pt")["model"]
    all_filters = filters(source[STEM.format(0)])
    own = [filters(found[STEM.format(member)]) for member in (0, 1)]
    assert [len(one) for one in own] == [6, 6]  # of 8
    assert set(own[0]) | set(own[1]) == set(all_filters)
    assert len(set(own[0]) & set(own[1])) == 4
    # The classifier reads some columns and keeps all classes
    columns = filters(source["members.0.fc.weight"].T.contiguous())
    assert set(filters(found["members.1.fc.weight"].T.contiguous())) < set(columns)
    assert torch.equal(found["members.1.fc.bias"], source["members.0.fc.bias"])


def test_detectors_start_from_slices_too(large: Path) -> None:
    model = create_ssd("resnet10_16", 2, num_classes=3)
    load_slices(model, str(large), "resnet10_16", seed=0)
    all_filters = set(filters(checkpoint.read(large)["model"][STEM.format(0)]))
    own = [set(filters(model.state_dict()[STEM.format(member)])) for member in (0, 1)]
    assert own[0] | own[1] == all_filters


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as timm publishes them."""
    path = tmp_path_factory.mktemp("timm") / "resnet10t.pth"
    torch.save(timm.create_model("resnet10t").state_dict(), path)
    return path


def test_timms_weights_are_divided(
    timm_file: Path, npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recipe(npz, tmp_path / "two")
    config.model = ModelSettings("timm:resnet10t/2", 2, "imagenet", divide_from=str(timm_file))
    config.train.lr = 0
    train(config)
    whole = torch.load(timm_file, weights_only=True)
    assert "note: timm" not in capsys.readouterr().out
    model, _ = load_ensemble(tmp_path / "two/last.pt")
    first = [filters(member.conv1[0].weight.detach()) for member in model.members]
    assert [len(one) for one in first] == [17, 17]  # of 24
    assert set(first[0]) | set(first[1]) == set(filters(whole["conv1.0.weight"]))
    assert model.members[0].fc.weight.shape == (3, 362)  # the classes of the images

    note_other_division("timm:resnet10t/2, resnet18/4", 3)
    assert capsys.readouterr().out.splitlines() == [
        f"note: timm:resnet10t/2, resnet18/4 is one of {n} members that cost as much as the undivided, and there are 3"
        for n in (2, 4)
    ]
    detector = create_ssd("timm:resnet10t/2", 2, num_classes=3)
    assert detector.members[0].level_channels == [91, 181, 362]
    load_slices(detector, str(timm_file), "timm:resnet10t/2", seed=0)
    own = [set(filters(member.network.conv1[0].weight.detach())) for member in detector.members]
    assert own[0] | own[1] == set(filters(whole["conv1.0.weight"]))


def test_what_cannot_be_divided_is_told(large: Path, npz: Path, trained: Path, tmp_path: Path) -> None:
    def start(path: Path, *model: object) -> None:
        config = recipe(npz, tmp_path / "refused")
        train(replace(config, model=ModelSettings(*model, divide_from=str(path))))

    with pytest.raises(UserError, match=r"last\.pt: was trained with model\.members = 2; .* needs 1"):
        start(trained / "last.pt", "resnet10_16", 2)
    with pytest.raises(
        UserError, match=r"last\.pt: was trained with model\.backbone = resnet10_16; .* needs resnet10_24"
    ):
        start(large, "resnet10_24", 2)
    with pytest.raises(UserError, match=r"model\.stem = imagenet"):
        start(large, "resnet10_16", 2, "cifar")
    for backbone, message in (
        ("timm:resnet18", r"--model\.backbone timm:resnet18/2, or give weights as model\.pretrained"),
        ("timm:resnet18/2,resnet34/2", "name one model and its division"),
        ("timm:resnet18/2", r"was trained with model\.backbone = resnet10_16; .* needs timm:resnet18"),
    ):
        with pytest.raises(UserError, match=message):
            start(large, backbone, 2)
    with pytest.raises(UserError, match=r"the members are of timm:resnet18: make them equal"):
        start(Path("timm:resnet34"), "timm:resnet18/2", 2)
    with pytest.raises(UserError, match=r"resnet10_16 has layers of its own"):
        start(Path("timm:resnet18"), "resnet10_16", 2)
    with pytest.raises(UserError, match=r"model\.members is 1, .* start from model\.pretrained"):
        start(large, "resnet10_16", 1, "imagenet")
    damaged = checkpoint.read(large)
    damaged["model"]["members.0.layer2.0.conv1.weight"][0, 0] = math.nan
    torch.save(damaged, tmp_path / "nan.pt")
    with pytest.raises(UserError, match=r"not all numbers of members\.0\.layer2\.0\.conv1\.weight are finite"):
        start(tmp_path / "nan.pt", "resnet10_16", 2, "imagenet")
    assert not (tmp_path / "refused").exists()


def test_settings_that_contradict_it_are_refused(npz: Path, tmp_path: Path) -> None:
    config = recipe(npz, tmp_path / "run")
    own = ModelSettings("resnet10_16", 2, "imagenet", divide_from="b.pt")
    for model, message in (
        (replace(own, same_initialization=True), r"model\.same_initialization would make all slices"),
        (replace(own, pretrained="a.pt"), r"model\.pretrained and model\.divide_from"),
    ):
        with pytest.raises(UserError, match=message):
            train(replace(config, model=model))
    model = DetectorSettings("resnet10_16", 2, divide_from="b.pt")
    with pytest.raises(UserError, match=r"train\.freeze"):
        train_detector(TrainDetection(model=model, train=DetectionTrainSettings(freeze=1), output=str(tmp_path)))


def test_statistics_are_those_of_the_slices(
    large: Path, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen batch norms keep what was estimated before: each member's own features, normalized, have a mean of 0.

    All processes draw alike for it, as in the steps of the first epoch.
    """
    losses, seeds = CoTraining.losses, []
    monkeypatch.setattr(CoTraining, "losses", lambda *args: seeds.append(torch.initial_seed()) or losses(*args))
    config = recipe(npz, tmp_path / "two")
    config.model = ModelSettings("resnet10_16", 2, "imagenet", divide_from=str(large))
    config.data = replace(config.data, auto_augment="none", erasing=0.0, flip=0.0, crop="none")
    config.train = replace(config.train, lr=0, batch_norm="frozen", mixup=0.0)
    train(config)
    steps = 24 // config.train.batch_size
    assert seeds[:steps] == seeds[steps : 2 * steps]
    assert len(set(seeds[:steps])) == steps > 1
    model, saved = load_ensemble(tmp_path / "two/last.pt")
    images = torch.from_numpy(generated_images(24, seed=0)[0]).permute(0, 3, 1, 2) / 255  # as in the file
    mean, std = (torch.tensor(saved.meta[key])[:, None, None] for key in ("mean", "std"))
    with torch.inference_mode():
        for member in model.eval().members:
            normalized = member.layer0[:2]((images - mean) / std)
            assert normalized.mean((0, 2, 3)).tolist() == pytest.approx(member.layer0[1].bias.tolist(), abs=1e-3)
