"""Published checkpoints, made of the deterministic weights in their stated layouts, through the importer."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from classification.data.class_names import CIFAR100
from classification.evaluation import load_ensemble
from classification.settings import EvaluateClassification
from detection import Detector, create_ssd
from detection.training.train import load_pretrained
from divdet.commands.eval_cls import checkpoint_defaults
from divdet.commands.import_checkpoint import import_checkpoint
from divdet.commands.network_settings import ImportCheckpoint
from divdet.engine import checkpoint
from divdet.engine.errors import UserError
from tests.reference import assert_probe, deterministic_images, deterministic_weights, released


def publish(path: Path, member: dict[str, Tensor], members: int, module: str = "module.", **others: object) -> str:
    """A file as the paper's authors publish them, every member with the same weights."""
    weights = {f"{module}models.{i}.{key}": value for i in range(members) for key, value in member.items()}
    torch.save({"epoch": 300, "arch": "anything", "state_dict": weights} | others, path)
    return str(path)


def request(source: str, network: str, output: Path, task: str = "cls") -> ImportCheckpoint:
    dataset, backbone, s = network.split("/")
    dataset = "coco" if task == "det" else dataset
    return ImportCheckpoint(source, task, backbone, int(s[1:]), dataset, output=str(output))


@pytest.mark.parametrize(
    ("network", "module"),
    [
        ("cifar100/resnet110/S2", "module."),
        ("cifar100/efficientnet_b0/S2", ""),
        ("cifar10/shake_shake26_2x96d/S2", "module."),
        ("imagenet/resnet50/S1", "module."),
    ],
)
def test_imported_classifiers_compute_what_the_released_code_does(
    shared: Path, tmp_path: Path, network: str, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = released(shared, "expected_classification")[network]
    member = deterministic_weights(released(shared, "layout_classification")[network])
    source = publish(tmp_path / "published.pth.tar", member, int(network[-1]), module)
    output = tmp_path / "new" / "own.pt"
    import_checkpoint(request(source, network, output))
    said = capsys.readouterr().out
    assert ("never uses are left out" in said) == ("shake" in network)
    ensemble, _ = load_ensemble(output)
    assert len(ensemble.members) == int(network[-1])
    with torch.no_grad():
        for logits in ensemble.eval()(deterministic_images(expected["input"])):
            assert_probe(logits, expected["logits"])


@pytest.mark.parametrize("s", [1, 2])
@pytest.mark.parametrize("backbone", ["wrn50_2", "wrn50_3", "resnext101_64x4d"])
def test_imported_detectors_keep_every_weight(shared: Path, tmp_path: Path, backbone: str, s: int) -> None:
    """Each tensor of the file has a value of its own, and the network's tensors have them all."""
    network, last = f"ssd300/{backbone}/S{s}", s - 1
    layout = released(shared, "layout_detection")[network]
    weights = {key: torch.tensor(float(i)).expand(shape) for i, (key, shape) in enumerate(layout.items())}
    torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}}, tmp_path / "published.pth")
    found = import_checkpoint(request(str(tmp_path / "published.pth"), network, tmp_path / "own.pt", "det")).model
    values = {key: value.flatten()[0].item() for key, value in found.items()}
    assert all((value == values[key]).all() for key, value in found.items())
    assert sorted(values.values()) == list(range(len(layout)))
    position = list(layout).index
    key = f"feature_extractor.backbone.{last}.3.0.conv1.weight"
    assert values[f"members.{last}.layer3.0.conv1.weight"] == position(key)
    assert values["extras.4.3.weight"] == position("additional_blocks.4.3.weight")


def test_imported_detector_predicts_and_is_trained_further(shared: Path, tmp_path: Path) -> None:
    network = "ssd300/wrn50_2/S2"
    weights = deterministic_weights(released(shared, "layout_detection")[network])
    torch.save(weights, tmp_path / "published.pth")
    import_checkpoint(request(str(tmp_path / "published.pth"), network, tmp_path / "own.pt", "det"))
    detector = Detector.load(tmp_path / "own.pt", "cpu")
    assert (detector.names[0], detector.names[-1]) == ("person", "toothbrush")
    assert (detector.category_ids[11], detector.category_ids[-1]) == (13, 90)  # COCO's ids have gaps
    assert detector.settings.score_threshold == 0.05
    with torch.inference_mode():
        deltas, logits = detector.model(deterministic_images([1, 3, 300, 300]))
    expected = released(shared, "expected_detection")[network]
    for member in range(2):
        assert_probe(deltas[member].transpose(1, 2), expected["locs"][member])
        assert_probe(logits[member].transpose(1, 2), expected["confs"][member])

    further = create_ssd("wrn50_2", 2, num_classes=3)
    head = further.conf[0].weight.detach().clone()
    load_pretrained(further, str(tmp_path / "own.pt"), "wrn50_2", ["cat", "unheard of", "person"])
    heads, published = further.conf[0].weight.unflatten(0, (4, 4)), weights["conf.0.weight"].unflatten(0, (81, 4))
    person, cat = detector.names.index("person") + 1, detector.names.index("cat") + 1
    assert torch.equal(heads[[0, 1, 3]], published[[0, cat, person]])
    assert torch.equal(heads[2], head.unflatten(0, (4, 4))[2])
    assert torch.equal(further.loc[0].weight, weights["loc.0.weight"])


def test_imported_classifiers_settings_are_those_of_its_data(shared: Path, tmp_path: Path) -> None:
    network = "cifar100/wrn16_8/S4"
    member = deterministic_weights(released(shared, "layout_classification")[network])
    source = publish(tmp_path / "published.pth", member, 4)
    meta = import_checkpoint(request(source, network, tmp_path / "own.pt")).meta
    assert meta["classes"] == CIFAR100
    assert len(CIFAR100) == 100
    assert (meta["image_size"], meta["crop"], meta["stem"]) == (32, "padded", "cifar")
    defaults = checkpoint_defaults(EvaluateClassification(checkpoint=str(tmp_path / "own.pt")))
    assert defaults == {"data.dataset": "cifar100", "data.root": "data"}


def test_what_does_not_fit_is_named_and_nothing_is_written(shared: Path, tmp_path: Path) -> None:
    network = "cifar100/resnet110/S4"
    member = deterministic_weights(released(shared, "layout_classification")[network])
    output = tmp_path / "own.pt"

    def refuse(message: str, source: str, name: str = network, task: str = "cls") -> None:
        with pytest.raises(UserError, match=message) as caught:
            import_checkpoint(request(source, name, output, task))
        assert "\n" not in str(caught.value)
        assert not output.exists()

    whole = publish(tmp_path / "whole.pth", member, 4)
    refuse("holds a member 3 where --members is 2", whole, "cifar100/resnet110/S2")
    refuse("of another shape", whole, "cifar10/resnet110/S4")
    refuse("do not fit", whole, "cifar100/wrn16_8/S4")
    refuse("do not fit", whole, network, "det")
    refuse("do not fit", whole, "imagenet/resnet10_16/S4", "det")
    refuse("unknown backbone", whole, "cifar100/resnet111/S4")
    refuse("missing", publish(tmp_path / "three.pth", member, 3))
    refuse(
        r"1 missing \(members.0.fc.bias\)|4 missing \(members.0.fc.bias",
        publish(tmp_path / "less.pth", {key: value for key, value in member.items() if key != "fc.bias"}, 4),
    )
    refuse("4 unexpected", publish(tmp_path / "more.pth", member | {"fc.scale": torch.ones(1)}, 4))
    torch.save({"module.models.0.fc.bias": torch.ones(1), "models.0.fc.bias": torch.ones(1)}, tmp_path / "twice.pth")
    refuse("stands there twice", str(tmp_path / "twice.pth"))
    torch.save({"state_dict": member}, tmp_path / "bare.pth")
    refuse("belongs to no member", str(tmp_path / "bare.pth"))
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    refuse("holds no weights by name", str(tmp_path / "none.pth"))
    torch.save({"state_dict": member, "arguments": Path("x")}, tmp_path / "object.pth")
    refuse("(?:more than tensors|holds a pickled)", str(tmp_path / "object.pth"))
    refuse("no such checkpoint", str(tmp_path / "absent.pth"))


def test_missing_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--source is missing"):
        import_checkpoint(ImportCheckpoint(backbone="resnet50", output="x.pt"))
    with pytest.raises(UserError, match="another than --source"):
        import_checkpoint(ImportCheckpoint(source=str(tmp_path / "a"), backbone="x", output=str(tmp_path / "a")))
    with pytest.raises(UserError, match="no such checkpoint"):
        import_checkpoint(
            ImportCheckpoint(str(tmp_path / "a"), "cls", "resnet50", 1, output=str(tmp_path / ("x" * 300)))
        )
    with pytest.raises(UserError, match="published detectors are of coco"):
        import_checkpoint(ImportCheckpoint("a", "det", "wrn50_2", 1, "voc", output=str(tmp_path / "b")))


def test_imported_checkpoints_are_whole(shared: Path, tmp_path: Path) -> None:
    network = "cifar100/se_resnet110/S4"
    member = deterministic_weights(released(shared, "layout_classification")[network])
    source = publish(tmp_path / "published.pth", member, 4, best_acc1=torch.tensor(81.0))
    import_checkpoint(request(source, network, tmp_path / "own.pt"))
    assert checkpoint.load(tmp_path / "own.pt", "classification").config["model"]["members"] == 4
