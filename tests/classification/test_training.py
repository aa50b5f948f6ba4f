import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F
from torchvision.transforms.v2.functional import normalize

from classification.config import (
    ClassificationTrainSettings,
    DataSettings,
    EvalDataSettings,
    EvaluateClassification,
    ModelSettings,
    TrainClassification,
)
from classification.ensemble import create_ensemble
from classification.evaluation import INPUT, evaluate, load_ensemble
from classification.training import CoTraining, load_pretrained, train
from engine import checkpoint
from engine.cli import to_dict
from engine.distributed import World
from engine.errors import UserError
from tests.classification.generated import CLASSES, encoded, generated_images, write_folder, write_npz
from tests.classification.stopping import train_until


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("data") / "images.npz")


def recipe(data: Path, output: Path, epochs: int = 1, **others: object) -> TrainClassification:
    dataset = "npz" if data.suffix == ".npz" else "folder"
    return TrainClassification(
        model=ModelSettings("resnet10_16", 2),
        data=DataSettings(dataset=dataset, root=str(data), image_size=16, auto_augment="cifar10", erasing=0.5),
        train=ClassificationTrainSettings(
            epochs=epochs, batch_size=8, lr=0.05, cot_warmup_epochs=2, mixup=0.2, label_smoothing=0.1, workers=0
        ),
        output=str(output),
        device="cpu",
        **others,
    )


@pytest.fixture(scope="module")
def trained(npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs, all augmentation and regularisation on."""
    output = tmp_path_factory.mktemp("runs") / "two"
    train(recipe(npz, output, epochs=2))
    return output


def test_run_folder_holds_what_the_contract_names(trained: Path, npz: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "last.pt", "best.pt"} < names
    assert any(name.startswith("events.") for name in names)
    saved, given = yaml.safe_load((trained / "config.yaml").read_text()), to_dict(recipe(npz, trained, epochs=2))
    resolved = [
        ("model", "stem"),
        ("data", "crop"),
        ("train", "precision"),
        *(("data", key) for key in (*INPUT, "erasing_area", "erasing_ratio")),
    ]
    for section, key in resolved:
        assert saved[section][key] not in ("auto", None)
        given[section][key] = saved[section][key]
    assert saved == given
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert {"train_loss", "train_ce", "train_cot", "top1", "top5", "top1_member2"} < set(lines[0])
    assert checkpoint.load(trained / "last.pt")["meta"] == {
        "classes": CLASSES,
        "image_size": 16,
        "crop": "padded",
        "stem": "cifar",
        "eval_resize": 1.0,
        "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def test_network_learns_and_evaluation_agrees(npz: Path, tmp_path: Path) -> None:
    config = recipe(npz, tmp_path, epochs=8)
    config.data = replace(config.data, auto_augment="none", erasing=0, padding=1)
    config.train = replace(config.train, mixup=0, label_smoothing=0, workers=1)
    last = train(config)
    losses = [json.loads(line)["train_loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] / 4
    assert last["top1"] > 90
    metrics = evaluate(EvaluateClassification(str(tmp_path / "last.pt"), EvalDataSettings("npz", str(npz)), workers=0))
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert {key: metrics[key] for key in ("top1", "top5")} == {key: last[key] for key in ("top1", "top5")}
    assert [member["top1"] for member in metrics["members"]] == [last["top1_member1"], last["top1_member2"]]
    assert set(metrics["combine"]) == {"mean", "mean_softmax", "max", "max_softmax", "geometric"}
    assert (metrics["images"], metrics["top5"]) == (12, 100)


def test_metrics_equal_those_counted_by_hand(trained: Path, npz: Path) -> None:
    metrics = evaluate(
        EvaluateClassification(str(trained / "last.pt"), EvalDataSettings("npz", str(npz)), batch_size=5, workers=0)
    )
    net, found = load_ensemble(trained / "last.pt")
    images, labels = generated_images(12, seed=1)
    mean, std = (torch.tensor(found["meta"][key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        logits = net.eval()((torch.from_numpy(images).movedim(-1, 1) / 255 - mean) / std)
    labels = torch.from_numpy(labels)

    def percent(scores: torch.Tensor) -> float:
        return 100 * (scores.argmax(1) == labels).double().mean().item()

    p = logits.softmax(-1)
    expected = {
        "mean": logits.mean(0),
        "mean_softmax": p.mean(0),
        "max": logits.amax(0),
        "max_softmax": p.amax(0),
        "geometric": p.prod(0).sqrt(),
    }
    assert metrics["combine"] == pytest.approx({name: percent(scores) for name, scores in expected.items()})
    assert metrics["top1"] == metrics["combine"]["mean"]
    assert [member["top1"] for member in metrics["members"]] == pytest.approx([percent(one) for one in logits])
    assert metrics["cosine_similarity"] == pytest.approx(F.cosine_similarity(*logits, dim=-1).mean().item(), abs=1e-5)


def test_resumed_run_ends_with_the_same_weights(npz: Path, tmp_path: Path, trained: Path) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    train(recipe(npz, straight, epochs=4))
    config = recipe(npz, resumed, epochs=4)

    train_until(config, step=1)  # in the first epoch: nothing is left to continue from
    train_until(replace(config, resume="auto"), step=7)  # in the third of three steps each
    assert len((resumed / "metrics.jsonl").read_text().splitlines()) == 2
    workers = replace(config.train, workers=1)
    train(replace(config, resume="auto", train=workers))
    assert (resumed / "metrics.jsonl").read_text() == (straight / "metrics.jsonl").read_text()
    first, second = (checkpoint.load(run / "last.pt")["model"] for run in (straight, resumed))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_continued_run_has_a_best_of_its_own(
    trained: Path, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([-2.0, -1.0, -3.0])  # all below those of the run that is continued
    monkeypatch.setattr(CoTraining, "evaluate", lambda self: {"top1": next(scores)})
    train(recipe(npz, tmp_path, epochs=3, resume=str(trained / "last.pt")))
    train(recipe(npz, tmp_path, epochs=5, resume="auto"))
    assert checkpoint.load(tmp_path / "best.pt")["epoch"] == 4


def test_views_are_normalised_then_erased_then_mixed(npz: Path, tmp_path: Path) -> None:
    config = recipe(npz, tmp_path)
    config.train = replace(config.train, mixup=0.5)
    network = create_ensemble("resnet10_16", 2, 3, "cifar10")
    meta = {"mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3], "classes": CLASSES}
    task, seen = CoTraining(network, config, meta, None, None, World()), []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    views = torch.randint(256, (4, 2, 16, 16, 3), dtype=torch.uint8)
    erased = torch.tensor([[[1, 2, 5, 4], [0, 0, 0, 0]], *[[[8, 0, 8, 3], [0, 9, 2, 7]]] * 3])
    torch.manual_seed(3)
    task.losses((views, erased, torch.tensor([0, 1, 2, 0])), epoch=0.0)
    expected = normalize(views.movedim(-1, -3) / 255, meta["mean"], meta["std"]).transpose(0, 1)
    expected[0, 0, :, 1:6, 2:6] = 0
    expected[0, 1:, :, 8:16, 0:3] = 0
    expected[1, 1:, :, 0:2, 9:16] = 0
    torch.manual_seed(3)
    share = torch.distributions.Beta(0.5, 0.5).sample()
    torch.testing.assert_close(seen[0], share * expected + (1 - share) * expected.roll(1, 1), rtol=1e-4, atol=1e-5)


def test_members_start_differently_and_their_views_matter(npz: Path, tmp_path: Path, trained: Path) -> None:
    weights = checkpoint.load(trained / "last.pt")["model"]
    assert not torch.equal(weights["members.0.layer0.0.weight"], weights["members.1.layer0.0.weight"])
    config = recipe(npz, tmp_path / "same", epochs=2)
    train(replace(config, data=replace(config.data, different_views=False)))
    other = checkpoint.load(tmp_path / "same/last.pt")["model"]
    assert not torch.equal(weights["members.1.layer0.0.weight"], other["members.1.layer0.0.weight"])


def test_members_may_start_alike_and_then_learn_from_kl(npz: Path, tmp_path: Path) -> None:
    config = recipe(npz, tmp_path)
    config = replace(
        config,
        model=replace(config.model, same_initialisation=True),
        data=replace(config.data, different_views=False),
        train=replace(config.train, cot_loss="kl", cot_weight=1.0, cot_warmup_epochs=0),
    )
    last = train(config)
    assert last["train_cot"] == pytest.approx(0, abs=1e-6)
    weights = checkpoint.load(tmp_path / "last.pt")["model"]
    members = [[value for key, value in weights.items() if key.startswith(f"members.{i}.")] for i in range(2)]
    assert all(torch.equal(first, second) for first, second in zip(*members, strict=True))


def test_several_checkpoints_are_combined_as_single_models(trained: Path, npz: Path, tmp_path: Path) -> None:
    config = recipe(npz, tmp_path / "other")
    train(replace(config, seed=1, model=ModelSettings("resnet10_16", 3)))
    paths = [str(trained / "last.pt"), str(tmp_path / "other/last.pt")]
    data = EvalDataSettings("npz", str(npz))
    metrics = evaluate(EvaluateClassification(paths[0], data, paths[1:], workers=0, output=str(tmp_path)))
    images, labels = generated_images(12, seed=1)
    ensembles = [load_ensemble(path) for path in paths]
    mean, std = (torch.tensor(ensembles[0][1]["meta"][key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        inputs = (torch.from_numpy(images).movedim(-1, 1) / 255 - mean) / std
        means = torch.stack([net.eval()(inputs).mean(0) for net, _ in ensembles])
    right = (means.mean(0).argmax(1) == torch.from_numpy(labels)).double().mean().item()
    assert metrics["top1"] == pytest.approx(100 * right)
    assert len(metrics["members"]) == 2
    single = evaluate(EvaluateClassification(paths[1], data=data, workers=0, output=str(tmp_path / "single")))
    assert metrics["members"][1] == {key: single[key] for key in ("top1", "top5")}
    assert metrics["others"] == paths[1:]
    folder = recipe(write_folder(tmp_path / "data", size=32), tmp_path / "larger")
    train(replace(folder, data=replace(folder.data, image_size=32)))
    with pytest.raises(UserError, match="has other image_size than"):
        evaluate(EvaluateClassification(paths[0], data, [str(tmp_path / "larger/last.pt")], workers=0))


def test_one_member_trains_alone(npz: Path, tmp_path: Path) -> None:
    config = recipe(npz, tmp_path)
    last = train(replace(config, model=ModelSettings("resnet10_16", 1)))
    assert last["train_cot"] == 0
    assert "cosine_similarity" not in last
    metrics = evaluate(EvaluateClassification(str(tmp_path / "last.pt"), EvalDataSettings("npz", str(npz)), workers=0))
    assert metrics["cosine_similarity"] is None


def test_folders_train_too_with_the_form_that_is_asked_for(tmp_path: Path) -> None:
    config = recipe(write_folder(tmp_path / "data"), tmp_path / "run")
    config.model.stem = "imagenet"
    train(config)
    found = checkpoint.load(tmp_path / "run/last.pt")
    assert found["meta"]["stem"] == "imagenet"
    assert "members.1.layer4.0.conv1.weight" in found["model"]


def test_pretrained_weights_are_taken_but_for_another_number_of_classes(
    trained: Path, npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = checkpoint.load(trained / "last.pt")["model"]
    config = recipe(npz, tmp_path / "same")
    config.model.pretrained = str(trained / "last.pt")
    config.train.lr = 0
    train(config)
    found = checkpoint.load(tmp_path / "same/last.pt")["model"]
    assert all(torch.equal(found[key], source[key]) for key in source if key.endswith(("weight", "bias")))
    folder = write_folder(tmp_path / "data")
    for split in ("train", "val"):
        (folder / split / "white").mkdir()
        (folder / split / "white/a.png").write_bytes(encoded(generated_images(1)[0][0]).tobytes())
    other = recipe(folder, tmp_path / "other")
    other.model.pretrained, other.train.lr = str(trained / "last.pt"), 0
    train(other)
    assert "classifiers are left out" in capsys.readouterr().out
    found = checkpoint.load(tmp_path / "other/last.pt")["model"]
    assert found["members.0.fc.weight"].shape[0] == 4
    key = "members.1.layer3.0.conv1.weight"
    assert torch.equal(found[key], source[key])
    for shape in (("resnet10_32", 2), ("resnet10_16", 3), ("resnet10_16", 2, "imagenet")):
        model = ModelSettings(*shape, pretrained=str(trained / "last.pt"))
        with pytest.raises(UserError, match=r"last\.pt"):
            train(replace(config, model=model, output=str(tmp_path / "refused")))
    assert not (tmp_path / "refused").exists()


def test_classifier_of_any_family_may_differ_in_its_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    source, model = (create_ensemble("efficientnet_b0", 1, classes, "cifar10") for classes in (3, 5))
    own = model.members[0].classifier[1].weight.clone()
    monkeypatch.setattr("classification.training.load_ensemble", lambda path: (source, {}))
    load_pretrained(model, "some.pt")
    assert torch.equal(model.members[0].classifier[1].weight, own)
    assert torch.equal(model.members[0].features[8][0].weight, source.members[0].features[8][0].weight)


@pytest.mark.parametrize("workers", [0, 1])
def test_corrupt_image_met_in_training_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    config = recipe(write_folder(tmp_path / "data"), tmp_path / "run")
    config.train.workers = workers
    (tmp_path / "data/train/red/002.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^\S*002\.png: not an image, or one that is damaged[^\n]*$"):
        train(config)


def test_evaluation_refuses_what_does_not_fit(trained: Path, npz: Path, tmp_path: Path) -> None:
    data = EvalDataSettings("npz", str(npz))
    other = write_npz(tmp_path / "other.npz", classes=np.array(["a", "b", "c"]))
    with pytest.raises(UserError, match="classes differ"):
        evaluate(EvaluateClassification(str(trained / "last.pt"), EvalDataSettings("npz", str(other)), workers=0))
    found = checkpoint.load(trained / "best.pt")
    changes = (
        ({"model": {}}, r"bad\.pt: its model\.members is 2, but it holds 0 weights"),
        ({"model": dict(list(found["model"].items())[1:])}, "missing"),
        ({"model": found["model"] | {"extra": torch.zeros(1)}}, "unexpected"),
        ({"meta": {}}, "incomplete"),
        ({"config": None}, "incomplete"),
        ({"kind": "detection"}, "detection"),
        ({"model": {key: value * float("nan") for key, value in found["model"].items()}}, "not finite"),
    )
    for change, message in changes:
        torch.save(found | change, tmp_path / "bad.pt")
        with pytest.raises(UserError, match=message):
            evaluate(EvaluateClassification(str(tmp_path / "bad.pt"), data, workers=0))
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("meta", "mean", [0.5, 0.5], "mean or std|incomplete"),
        ("meta", "std", [0.2, 0.0, 0.2], "mean or std"),
        ("meta", "std", [0.2, 0.2, float("nan")], "mean or std"),
        ("meta", "image_size", 0, "image_size"),
        ("meta", "image_size", -5, "image_size"),
        ("meta", "image_size", "32", "image_size"),
        ("meta", "image_size", float("inf"), "image_size"),
        ("meta", "crop", "round", "crop"),
        ("meta", "classes", [[1], [2], [3]], "classes"),
        ("config", "members", float("inf"), "incomplete"),
        ("config", "members", 10**12, "members"),
        ("config", "dropout", 5, "dropout"),
        ("config", "backbone", "resnet11", "unknown backbone"),
    ],
)
def test_damaged_descriptions_are_refused_naming_the_file(
    trained: Path, tmp_path: Path, section: str, key: str, value: object, message: str
) -> None:
    found = checkpoint.load(trained / "best.pt")
    (found["meta"] if section == "meta" else found["config"]["model"])[key] = value
    torch.save(found, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=rf"bad\.pt: .*({message})"):
        load_ensemble(tmp_path / "bad.pt")


def test_a_replaced_evaluation_is_said(trained: Path, npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = EvaluateClassification(str(trained / "best.pt"), EvalDataSettings("npz", str(npz)), output=str(tmp_path))
    config.workers = 0
    evaluate(config)
    assert "earlier one is replaced" not in capsys.readouterr().out
    evaluate(replace(config, checkpoint=str(trained / "last.pt")))
    assert f"{tmp_path / 'metrics.json'}: the earlier one is replaced" in capsys.readouterr().out


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
