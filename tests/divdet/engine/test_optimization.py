"""Learning rates of the paper, and which weights are decayed."""

from types import SimpleNamespace

import pytest
import torch

from divdet.engine import optimization
from divdet.engine.errors import UserError
from divdet.engine.optimization import build_optimizer, clip_gradient, learning_rate
from divdet.engine.settings import TrainSettings


def test_learning_rate_of_the_paper() -> None:
    """Sec. IV-A: lr · epoch / slow, then 0.5 · lr · (1 + cos(π (epoch − slow) / (max − slow)))."""
    cifar = TrainSettings(epochs=300, lr=0.1, warmup_epochs=20)
    assert learning_rate(cifar, 0) == 0
    assert learning_rate(cifar, 10) == pytest.approx(0.05)
    assert learning_rate(cifar, 20) == pytest.approx(0.1)
    assert learning_rate(cifar, 160) == pytest.approx(0.05)
    assert learning_rate(cifar, 300) == pytest.approx(0)
    coco = TrainSettings(epochs=65, lr=0.0026, schedule="step", milestones=[43, 54])
    assert [learning_rate(coco, epoch) for epoch in (0, 42.9, 43, 54)] == pytest.approx([26e-4, 26e-4, 26e-5, 26e-6])


def test_every_step_has_the_rate_of_the_table() -> None:
    """4 steps an epoch, 1.5 epochs of warm-up: 6 steps from lr / 6 to lr; then the cosine over 2.5 epochs."""
    settings = TrainSettings(epochs=4, lr=0.6, warmup_epochs=1.5)
    rates = [learning_rate(settings, step / 4, (step + 1) / 4) for step in range(16)]
    # 0.3 · (1 + cos(π · k / 10)) of step 6 + k: cos of 0°, 18°, … 162°
    cosine = [0.6, 0.585317, 0.542705, 0.476336, 0.392705, 0.3, 0.207295, 0.123664, 0.057295, 0.014683]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, *cosine], abs=1e-6)
    assert max(rates) == 0.6
    within_a_step = TrainSettings(epochs=4, lr=0.6, warmup_epochs=0.1)
    assert learning_rate(within_a_step, 0, 0.25) == 0.6


def test_rates_that_the_schedule_begins_and_ends_with() -> None:
    settings = TrainSettings(epochs=105, lr=0.256, end_lr=1e-5, warmup_epochs=5, warmup_lr=1e-6)
    assert learning_rate(settings, 0) == pytest.approx(1e-6)
    assert learning_rate(settings, 2.5) == pytest.approx((0.256 + 1e-6) / 2)
    assert learning_rate(settings, 5) == pytest.approx(0.256)
    assert learning_rate(settings, 55) == pytest.approx((0.256 + 1e-5) / 2)
    assert learning_rate(settings, 105) == pytest.approx(1e-5)
    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.256)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=100, eta_min=1e-5)
    for epoch in range(5, 105):
        assert learning_rate(settings, epoch) == pytest.approx(schedule.get_last_lr()[0])
        reference.step()
        schedule.step()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "step"}, "milestones is empty"),
        ({"lr": 1e-5, "end_lr": 1e-4}, r"train\.end_lr is 0\.0001, above train\.lr 1e-05"),
        ({"warmup_lr": 1.0, "warmup_epochs": 1}, r"train\.warmup_lr is 1\.0, above train\.lr"),
        ({"workers": 10**6}, r"train\.workers is 1000000"),
        ({"milestones": [3]}, r"train\.milestones is \[3\], which train\.schedule cosine does not use"),
        ({"schedule": "step", "milestones": [3, -1]}, r"train\.milestones is \[3, -1\]"),
    ],
)
def test_steps_and_schedule_that_contradict_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainSettings(**settings)


def test_biases_and_norms_are_not_decayed() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    decayed, exempt = build_optimizer(model, TrainSettings(), 1e-4).param_groups
    assert [p.ndim for p in decayed["params"]] == [4]
    assert decayed["weight_decay"] == 1e-4
    assert len(exempt["params"]) == 3
    assert exempt["weight_decay"] == 0
    assert len(build_optimizer(model, TrainSettings(decay_all=True), 1e-4).param_groups) == 1


@pytest.mark.parametrize("frozen", [False, True])
def test_the_gradient_is_clipped_where_a_processs_member_is_frozen(
    monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    """This process's member has the gradient (3, 0), or none; another's has (0, 2), and shared layers have (6, 0)."""
    model = torch.nn.ModuleDict({name: torch.nn.Linear(2, 1, bias=False) for name in ("members", "extras")})
    model["members"].requires_grad_(not frozen)
    own, shared = (model[name].weight for name in ("members", "extras"))
    own.grad, shared.grad = None if frozen else torch.tensor([[3.0, 0.0]]), torch.tensor([[6.0, 0.0]])
    monkeypatch.setattr(optimization.dist, "all_reduce", lambda squared, group: squared.add_(2.0**2))
    clip_gradient(model, 1.0, SimpleNamespace(member_group="a group"))
    norm = (36 + 4 + (0 if frozen else 9)) ** 0.5
    assert shared.grad[0, 0].item() == pytest.approx(6 / norm)
    assert frozen or own.grad[0, 0].item() == pytest.approx(3 / norm)


def test_the_norm_of_a_frozen_member_is_on_the_networks_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL takes no tensor of the CPU; a device without values stands for the GPU."""
    with torch.device("meta"):
        model = torch.nn.ModuleDict({name: torch.nn.Linear(2, 1) for name in ("members", "extras")})
    model["members"].requires_grad_(False)
    for parameter in model["extras"].parameters():
        parameter.grad = torch.empty_like(parameter)
    devices = []
    monkeypatch.setattr(optimization.dist, "all_reduce", lambda squared, group: devices.append(squared.device.type))
    clip_gradient(model, 1.0, SimpleNamespace(member_group="a group"))
    assert devices == ["meta"]
