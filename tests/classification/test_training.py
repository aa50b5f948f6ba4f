import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torchvision.transforms.v2.functional import normalize

from classification.ensemble import create_ensemble
from classification.evaluation import INPUT
from classification.settings import (
    EvalDataSettings,
    EvaluateClassification,
    ModelSettings,
)
from classification.training import CoTraining, load_pretrained, train
from divdet.commands.eval_cls import evaluate
from divdet.engine import checkpoint
from divdet.engine.checkpoint import Checkpoint
from divdet.engine.cli import to_dict
from divdet.engine.distributed import World
from divdet.engine.errors import UserError
from tests.classification.generated import CLASSES, encoded, generated_images, write_folder, write_npz
from tests.classification.recipes import recipe
from tests.classification.stopping import train_until


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
    assert checkpoint.read(trained / "last.pt")["meta"] == {
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
    first, second = (checkpoint.read(run / "last.pt")["model"] for run in (straight, resumed))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_adamw_resumes_to_the_same_weights_and_not_as_another_optimizer(npz: Path, tmp_path: Path) -> None:
    straight, resumed = (recipe(npz, tmp_path / name, epochs=2) for name in ("straight", "resumed"))
    for config in (straight, resumed):
        config.train = replace(config.train, optimizer="adamw", lr=1e-3, save_every=1)
    train(straight)
    train_until(resumed, step=5)
    resumed.resume = "auto"
    sgd = replace(resumed, train=replace(resumed.train, optimizer="sgd"))
    with pytest.raises(UserError, match=r"optimizer = adamw, not sgd; add --train\.optimizer adamw"):
        train(sgd)
    train(resumed)
    first, second = (checkpoint.read(tmp_path / name / "last.pt") for name in ("straight", "resumed"))
    for part in ("model", "optimizer"):
        assert all(torch.equal(value, second[part][key]) for key, value in first[part].items())
    assert {value.item() for key, value in first["optimizer"].items() if key.endswith(".step")} == {6}


def test_a_run_of_before_there_was_a_choice_of_optimizer_is_sgds(
    trained: Path, npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    saved = checkpoint.read(trained / "last.pt")
    del saved["config"]["train"]["optimizer"]
    old = tmp_path / "last.pt"
    torch.save(saved, old)
    config = recipe(npz, tmp_path, resume=str(old))
    with pytest.raises(UserError, match=r"trained with train\.optimizer = sgd, not adamw"):
        train(replace(config, train=replace(config.train, optimizer="adamw")))
    train(config)
    assert "optimizer" not in capsys.readouterr().out  # has not changed


def test_continued_run_has_a_best_of_its_own(
    trained: Path, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([-2.0, -1.0, -3.0])  # all below those of the run that is continued
    monkeypatch.setattr(CoTraining, "evaluate", lambda self: {"top1": next(scores)})
    train(recipe(npz, tmp_path, epochs=3, resume=str(trained / "last.pt")))
    train(recipe(npz, tmp_path, epochs=5, resume="auto"))
    assert checkpoint.read(tmp_path / "best.pt")["epoch"] == 4


def test_other_validation_data_start_the_best_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    npz = write_npz(tmp_path / "images.npz")
    scores = iter([90.0, 80.0, 70.0])
    monkeypatch.setattr(CoTraining, "evaluate", lambda self: {"top1": next(scores)})
    train(recipe(npz, tmp_path / "run"))
    npz.unlink()
    arrays = dict(np.load(write_npz(npz)))
    arrays["test_labels"] = arrays["test_labels"][::-1].copy()
    train(recipe(npz, tmp_path / "run", epochs=2, resume="auto"))
    assert "changed: the" not in capsys.readouterr().out  # the same data, written again
    assert checkpoint.read(tmp_path / "run/best.pt")["epoch"] == 1
    np.savez(npz, **arrays)
    train(recipe(npz, tmp_path / "run", epochs=3, resume="auto"))
    printed = capsys.readouterr().out
    assert "changed: the validation data" in printed
    assert "changed: the training data" not in printed
    assert checkpoint.read(tmp_path / "run/best.pt")["epoch"] == 3


def test_views_are_normalized_then_erased_then_mixed(npz: Path, tmp_path: Path) -> None:
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
    weights = checkpoint.read(trained / "last.pt")["model"]
    assert not torch.equal(weights["members.0.layer0.0.weight"], weights["members.1.layer0.0.weight"])
    config = recipe(npz, tmp_path / "same", epochs=2)
    train(replace(config, data=replace(config.data, different_views=False)))
    other = checkpoint.read(tmp_path / "same/last.pt")["model"]
    assert not torch.equal(weights["members.1.layer0.0.weight"], other["members.1.layer0.0.weight"])


def test_members_may_start_alike_and_then_learn_from_kl(
    npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recipe(npz, tmp_path)
    config = replace(
        config,
        model=replace(config.model, same_initialization=True),
        data=replace(config.data, different_views=False),
        train=replace(config.train, cot_loss="kl", cot_weight=1.0, cot_warmup_epochs=0),
    )
    last = train(config)
    assert "note: members that start alike and see the same views stay alike" in capsys.readouterr().out
    assert last["train_cot"] == pytest.approx(0, abs=1e-6)
    weights = checkpoint.read(tmp_path / "last.pt")["model"]
    members = [[value for key, value in weights.items() if key.startswith(f"members.{i}.")] for i in range(2)]
    assert all(torch.equal(first, second) for first, second in zip(*members, strict=True))


def test_one_member_trains_alone(npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = recipe(npz, tmp_path)
    config.train.batch_norm = "frozen"
    last = train(replace(config, model=ModelSettings("resnet10_16", 1)))
    assert "note: train.batch_norm frozen keeps the statistics of a fresh backbone" in capsys.readouterr().out
    assert last["train_cot"] == 0
    assert "cosine_similarity" not in last
    metrics = evaluate(EvaluateClassification(str(tmp_path / "last.pt"), EvalDataSettings("npz", str(npz)), workers=0))
    assert metrics["cosine_similarity"] is None


def test_classes_without_images_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_npz(
        tmp_path / "sorted.npz", test_labels=np.zeros(12, np.int16)
    )  # as the first images of a sorted file
    train(recipe(first, tmp_path / "run"))
    absent = ", ".join(map(repr, CLASSES[1:]))
    assert (
        f"note: {len(CLASSES) - 1} of {len(CLASSES)} classes have no evaluation image ({absent})"
        in capsys.readouterr().out
    )


def test_folders_train_too_with_the_form_that_is_asked_for(tmp_path: Path) -> None:
    config = recipe(write_folder(tmp_path / "data"), tmp_path / "run")
    config.model.stem = "imagenet"
    train(config)
    found = checkpoint.read(tmp_path / "run/last.pt")
    assert found["meta"]["stem"] == "imagenet"
    assert "members.1.layer4.0.conv1.weight" in found["model"]


def test_pretrained_weights_are_taken_but_for_another_number_of_classes(
    trained: Path, npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = checkpoint.read(trained / "last.pt")["model"]
    config = recipe(npz, tmp_path / "same")
    config.model.pretrained = str(trained / "last.pt")
    config.train.lr = 0
    train(config)
    found = checkpoint.read(tmp_path / "same/last.pt")["model"]
    assert all(torch.equal(found[key], source[key]) for key in source if key.endswith(("weight", "bias")))
    folder = write_folder(tmp_path / "data")
    for split in ("train", "val"):
        (folder / split / "white").mkdir()
        (folder / split / "white/a.png").write_bytes(encoded(generated_images(1)[0][0]).tobytes())
    other = recipe(folder, tmp_path / "other")
    other.model.pretrained, other.train.lr = str(trained / "last.pt"), 0
    train(other)
    assert "weights kept for 3 classes (" in (said := capsys.readouterr().out)
    assert "new weights for 1 class (white)" in said
    loaded = checkpoint.read(tmp_path / "other/last.pt")
    found, classes = loaded["model"], loaded["meta"]["classes"]
    assert found["members.0.fc.weight"].shape[0] == 4
    for place, name in enumerate(CLASSES):
        row = found["members.0.fc.weight"][classes.index(name)]
        assert torch.equal(row, source["members.0.fc.weight"][place])
    key = "members.1.layer3.0.conv1.weight"
    assert torch.equal(found[key], source[key])
    for shape in (("resnet10_32", 2), ("resnet10_16", 3), ("resnet10_16", 2, "imagenet")):
        model = ModelSettings(*shape, pretrained=str(trained / "last.pt"))
        with pytest.raises(UserError, match=r"last\.pt"):
            train(replace(config, model=model, output=str(tmp_path / "refused")))
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("backbone", "classifiers"),
    [
        ("efficientnet_b0", ["classifier.1"]),
        ("timm:resnet10t", ["fc"]),
        ("timm:resnetv2_50", ["head.fc"]),  # a convolution
        ("timm:deit_tiny_distilled_patch16_224", ["head", "head_dist"]),
    ],
)
def test_classifiers_of_any_family_are_loaded_by_class_name(
    backbone: str, classifiers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = ["a", "b", "c", "d"], ["d", "x", "b", "a"]
    source, model = (create_ensemble(backbone, 1, 4, "imagenet") for _ in range(2))
    own = {key: value.clone() for key, value in model.state_dict().items()}
    monkeypatch.setattr(
        "classification.training.load_ensemble",
        lambda path: (source, Checkpoint("classification", {}, meta={"classes": old})),
    )
    load_pretrained(model, "some.pt", new)
    weights, given = model.state_dict(), source.state_dict()
    for key, value in weights.items():
        if key.removeprefix("members.0.").rpartition(".")[0] in classifiers:
            assert torch.equal(value[[0, 2, 3]], given[key][[3, 1, 0]])
            assert torch.equal(value[1], own[key][1])
        else:
            assert torch.equal(value, given[key]), key


@pytest.mark.parametrize("workers", [0, 1])
def test_corrupt_image_met_in_training_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    config = recipe(write_folder(tmp_path / "data"), tmp_path / "run")
    config.train.workers = workers
    (tmp_path / "data/train/red/002.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^\S*002\.png: not an image, or one that is damaged[^\n]*$"):
        train(config)
