"""What eval_cls.py reports, against the same numbers counted from all probabilities at once, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from classification.ensemble import Ensemble, create_ensemble
from classification.evaluation import load_ensemble, measure
from classification.probabilities import calibration_error, calibration_sums, error_sums, squared_error_terms
from classification.settings import EvalDataSettings, EvaluateClassification, ModelSettings
from classification.training import train
from divdet.commands.eval_cls import describe, evaluate
from divdet.engine import checkpoint
from divdet.engine.errors import UserError
from tests.classification.generated import generated_images, write_folder, write_npz
from tests.classification.recipes import recipe

NUM_CLASSES = 7


def scores_by_rule(logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Table VI's rules, written out: logits [S,N,C] -> scores [N,C] of the same order."""
    p = logits.softmax(-1)
    return {
        "mean": logits.mean(0),
        "mean_softmax": p.mean(0),
        "max": logits.amax(0),
        "max_softmax": p.amax(0),
        "geometric": p.log().mean(0),
    }


@pytest.mark.parametrize("members", [1, 3])
def test_metrics_are_those_of_all_images_at_once(members: int) -> None:
    torch.manual_seed(0)
    net = Ensemble(nn.ModuleList(nn.Sequential(nn.Flatten(), nn.Linear(48, NUM_CLASSES)) for _ in range(members)))
    views = torch.randint(0, 256, (50, 4, 4, 3), dtype=torch.uint8)
    labels = torch.randint(0, NUM_CLASSES, (50,))
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.1, 0.05, 0.2])
    batches = [(views[i : i + 20], labels[i : i + 20]) for i in range(0, 50, 20)]
    metrics = measure(net, batches, mean, std, NUM_CLASSES)
    with torch.no_grad():
        logits = net((views / 255 - mean).div(std).permute(0, 3, 1, 2)).double()
    p, rules = logits.softmax(-1), scores_by_rule(logits)

    def percent(scores: torch.Tensor, k: int) -> float:
        ranks = (-scores.numpy()).argsort(1)[:, :k]
        return 100 * np.mean([label in row for row, label in zip(ranks, labels, strict=True)])

    assert metrics["images"] == 50
    assert metrics["combine"] == pytest.approx({name: percent(scores, 1) for name, scores in rules.items()})
    assert metrics["combine_top5"] == pytest.approx({name: percent(scores, 5) for name, scores in rules.items()})
    assert members == 1 or len({*metrics["combine_top5"].values()}) > 1  # the rules do differ
    assert (metrics["top1"], metrics["top5"]) == (metrics["combine"]["mean"], metrics["combine_top5"]["mean"])
    assert metrics["members"] == [
        {"top1": pytest.approx(percent(one, 1)), "top5": pytest.approx(percent(one, 5))} for one in logits
    ]
    # The ensemble's confidence is that of what it predicts by: the mean of the logits.
    ensemble, *each = calibration_error(
        calibration_sums(torch.stack([logits.mean(0).softmax(-1), *p]), labels), len(labels)
    )
    assert metrics["ece"] == {"ensemble": pytest.approx(ensemble, abs=1e-6), "members": pytest.approx(each, abs=1e-6)}
    expected = squared_error_terms(*error_sums(p, labels), len(labels))
    for name, value in expected.items():
        assert metrics["squared_error"][name] == (None if value is None else pytest.approx(value, abs=1e-6))
    json.dumps(metrics)
    lines = describe(metrics).splitlines()
    assert lines[0].split() == ["50", "images", "top-1", "top-5", "ECE"]
    for rule, top1 in metrics["combine"].items():
        assert f"{'combined by ' + rule:<26} {top1:7.2f} {metrics['combine_top5'][rule]:7.2f}" in lines
    assert lines[-1].startswith("squared error of the mean probabilities ")


def test_metrics_equal_those_counted_by_hand(trained: Path, npz: Path) -> None:
    metrics = evaluate(
        EvaluateClassification(str(trained / "last.pt"), EvalDataSettings("npz", str(npz)), batch_size=5, workers=0)
    )
    net, found = load_ensemble(trained / "last.pt")
    images, labels = generated_images(12, seed=1)
    mean, std = (torch.tensor(found.meta[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        logits = net.eval()((torch.from_numpy(images).movedim(-1, 1) / 255 - mean) / std)
    labels = torch.from_numpy(labels)

    def percent(scores: torch.Tensor) -> float:
        return 100 * (scores.argmax(1) == labels).double().mean().item()

    rules = scores_by_rule(logits)
    assert metrics["combine"] == pytest.approx({name: percent(scores) for name, scores in rules.items()})
    assert metrics["top1"] == metrics["combine"]["mean"]
    assert [member["top1"] for member in metrics["members"]] == pytest.approx([percent(one) for one in logits])
    assert metrics["cosine_similarity"] == pytest.approx(F.cosine_similarity(*logits, dim=-1).mean().item(), abs=1e-5)


def test_several_checkpoints_are_combined_as_single_models(trained: Path, npz: Path, tmp_path: Path) -> None:
    config = recipe(npz, tmp_path / "other")
    train(replace(config, seed=1, model=ModelSettings("resnet10_16", 3)))
    paths = [str(trained / "last.pt"), str(tmp_path / "other/last.pt")]
    data = EvalDataSettings("npz", str(npz))
    metrics = evaluate(EvaluateClassification(paths[0], data, paths[1:], workers=0, output=str(tmp_path)))
    images, labels = generated_images(12, seed=1)
    ensembles = [load_ensemble(path) for path in paths]
    mean, std = (torch.tensor(ensembles[0][1].meta[key])[:, None, None] for key in ("mean", "std"))
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


def test_evaluation_refuses_what_does_not_fit(trained: Path, npz: Path, tmp_path: Path) -> None:
    data = EvalDataSettings("npz", str(npz))
    other = write_npz(tmp_path / "other.npz", classes=np.array(["a", "b", "c"]))
    with pytest.raises(UserError, match="classes differ"):
        evaluate(EvaluateClassification(str(trained / "last.pt"), EvalDataSettings("npz", str(other)), workers=0))
    found = checkpoint.read(trained / "best.pt")
    changes = (
        ({"model": {}}, r"bad\.pt: its model\.members is 2, but it holds 0 weights"),
        ({"model": dict(list(found["model"].items())[1:])}, "missing"),
        ({"model": found["model"] | {"extra": torch.zeros(1)}}, "unexpected"),
        ({"meta": {}}, "incomplete"),
        ({"config": None}, "config is damaged"),
        ({"kind": "detection"}, "detection"),
        ({"model": {key: value * float("nan") for key, value in found["model"].items()}}, "not finite"),
    )
    for change, message in changes:
        torch.save(found | change, tmp_path / "bad.pt")
        with pytest.raises(UserError, match=message):
            evaluate(EvaluateClassification(str(tmp_path / "bad.pt"), data, workers=0))
    model = {"backbone": "timm:vit_tiny_patch16_224", "members": 1}
    weights = create_ensemble("timm:vit_tiny_patch16_224", 1, 3, "imagenet").state_dict()
    torch.save(found | {"config": {"model": found["config"]["model"] | model}, "model": weights}, tmp_path / "vit.pt")
    with pytest.raises(UserError, match=r"data\.image_size: .*vit\.pt cannot take images of 16 pixels"):
        evaluate(EvaluateClassification(str(tmp_path / "vit.pt"), data, workers=0))
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
        ("config", "members", float("inf"), "members"),
        ("config", "members", 10**12, "members"),
        ("config", "dropout", 5, "dropout"),
        ("config", "backbone", "resnet11", "unknown backbone"),
    ],
)
def test_damaged_descriptions_are_refused_naming_the_file(
    trained: Path, tmp_path: Path, section: str, key: str, value: object, message: str
) -> None:
    found = checkpoint.read(trained / "best.pt")
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
