"""Compiled training and the fused optimizer change nothing but the time."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from classification.ensemble import Ensemble
from classification.settings import (
    ClassificationTrainSettings,
    DataSettings,
    ModelSettings,
    TrainClassification,
)
from classification.training import train
from divdet.engine import checkpoint
from divdet.engine.optimization import build_optimizer
from divdet.engine.settings import TrainSettings
from tests.classification.generated import write_npz
from tests.classification.stopping import train_until


def recipe(images: Path, output: Path, compiled: bool) -> TrainClassification:
    return TrainClassification(
        model=ModelSettings("resnet10_16", 2),
        data=DataSettings(dataset="npz", root=str(images), image_size=16),
        train=ClassificationTrainSettings(epochs=2, batch_size=8, lr=0.05, workers=0, compile=compiled),
        output=str(output),
        device="cpu",
    )


def test_a_compiled_run_is_the_plain_one_and_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traced and differentiated ahead of time as ever, but without waiting for a C++ compiler.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    calls = []
    forward = Ensemble.forward

    def traced(self: Ensemble, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            calls.append(self.training)
        return forward(self, x)

    monkeypatch.setattr(Ensemble, "forward", traced)
    images = write_npz(tmp_path / "images.npz")
    runs = {name: recipe(images, tmp_path / name, name != "plain") for name in ("plain", "compiled", "resumed")}
    train(runs["plain"])
    assert any(calls)
    calls.clear()
    train(runs["compiled"])
    assert calls
    assert not any(calls)  # of the two, evaluation alone runs the plain network
    train_until(runs["resumed"], step=4)
    train(replace(runs["resumed"], resume="auto"))
    plain, compiled, resumed = (checkpoint.read(Path(run.output) / "last.pt") for run in runs.values())
    assert compiled["model"].keys() == plain["model"].keys()
    for key, value in compiled["model"].items():
        assert torch.equal(value, resumed["model"][key])
        torch.testing.assert_close(value, plain["model"][key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nesterov", [True, False])
def test_the_fused_step_is_sgds_formula_whatever_the_layout(nesterov: bool) -> None:
    layer = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    settings = TrainSettings(lr=0.1, momentum=0.9, nesterov=nesterov)
    optimizer = build_optimizer(layer, settings, weight_decay=0.01)
    assert optimizer.param_groups[0]["fused"]
    weight, buffer = layer.weight.detach().double(), torch.zeros(8, 3, 3, 3, dtype=torch.float64)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.randn(2, 3, 5, 5)).square().sum().backward()
        gradient = layer.weight.grad.double() + 0.01 * weight
        buffer = 0.9 * buffer + gradient
        weight = weight - 0.1 * (gradient + 0.9 * buffer if nesterov else buffer)
        optimizer.step()
        torch.testing.assert_close(layer.weight.detach().double(), weight, rtol=1e-4, atol=1e-5)
        weight = layer.weight.detach().double()


def test_adamw_is_its_formula() -> None:
    """Loshchilov and Hutter 2019, algorithm 2; ε is 1e-8; the bias is not decayed."""
    layer = nn.Linear(4, 3)
    optimizer = build_optimizer(layer, TrainSettings(lr=0.01, optimizer="adamw", momentum=0.8), weight_decay=0.1)
    expected = {name: value.detach().double() for name, value in layer.named_parameters()}
    first, second = ({name: torch.zeros_like(value) for name, value in expected.items()} for _ in range(2))
    for step in range(1, 4):
        optimizer.zero_grad()
        layer(torch.randn(2, 4)).square().sum().backward()
        optimizer.step()
        for name, parameter in layer.named_parameters():
            gradient = parameter.grad.double()
            first[name] = 0.8 * first[name] + 0.2 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            change = first[name] / (1 - 0.8**step) / ((second[name] / (1 - 0.999**step)).sqrt() + 1e-8)
            decay = 0.1 * expected[name] if name == "weight" else 0
            expected[name] = expected[name] - 0.01 * (change + decay)
            torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-5, atol=1e-6)


def test_a_step_that_the_scaler_skips_first_leaves_no_momentum_behind() -> None:
    layer = nn.Linear(4, 4, bias=False)
    before = layer.weight.detach().clone()
    optimizer = build_optimizer(layer, TrainSettings(lr=0.1, momentum=0.9, nesterov=False), 0.0, scaled=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for value in (float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(layer(torch.full((1, 4), value)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    torch.testing.assert_close(layer.weight.detach(), before - 0.1)
