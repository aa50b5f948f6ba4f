"""What eval_cls.py reports, against the same numbers counted from all probabilities at once."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from classification.ensemble import Ensemble
from classification.evaluation import describe, measure
from classification.probabilities import calibration_error, calibration_sums, error_sums, squared_error_terms

CLASSES = 7


@pytest.mark.parametrize("members", [1, 3])
def test_metrics_are_those_of_all_images_at_once(members: int) -> None:
    torch.manual_seed(0)
    net = Ensemble(nn.ModuleList(nn.Sequential(nn.Flatten(), nn.Linear(48, CLASSES)) for _ in range(members)))
    views = torch.randint(0, 256, (50, 4, 4, 3), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (50,))
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.1, 0.05, 0.2])
    batches = [(views[i : i + 20], labels[i : i + 20]) for i in range(0, 50, 20)]
    metrics = measure(net, batches, mean, std, CLASSES)
    with torch.no_grad():
        logits = net((views / 255 - mean).div(std).permute(0, 3, 1, 2)).double()
    p = logits.softmax(-1)
    rules = {
        "mean": logits.mean(0),
        "mean_softmax": p.mean(0),
        "max": logits.amax(0),
        "max_softmax": p.amax(0),
        "geometric": p.log().mean(0),
    }

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
