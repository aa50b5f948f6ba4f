"""ShakeDrop and Shake-Shake: means over many draws, gradients, evaluation."""

import pytest
import torch
from torch import Tensor

from classification.backbones.registry import create_members
from classification.backbones.regularization import Dropout, DropPath, ShakeDrop, ShakeShake, draw_in_full_precision

IMAGES = 200_000


def drawn(p: float) -> tuple[Tensor, Tensor]:
    """Each image's factor on the way forward and on the way back."""
    torch.manual_seed(0)
    x = torch.full((IMAGES, 1, 1, 1), 3.0, requires_grad=True)
    y = ShakeDrop(p).train()(x)
    y.sum().backward()
    return (y.detach() / 3).flatten(), x.grad.flatten()


@pytest.mark.parametrize("p", [0.2, 0.75])
def test_shakedrop_draws_the_papers_distributions(p: float) -> None:
    forward, backward = drawn(p)
    shaken = (forward - 1).abs() > 1e-6
    assert shaken.double().mean().item() == pytest.approx(p, abs=0.005)
    assert (backward[~shaken] - 1).abs().max() < 1e-6
    # α uniform in -1…1 forward, β uniform in 0…1 backward: means 0 and 1/2, variances 1/3 and 1/12
    for factors, mean, variance, low in ((forward, 0, 1 / 3, -1), (backward, 0.5, 1 / 12, 0)):
        values = factors[shaken].double()
        assert values.mean().item() == pytest.approx(mean, abs=0.01)
        assert values.var().item() == pytest.approx(variance, abs=0.01)
        assert values.min() >= low - 1e-6
        assert values.max() <= 1 + 1e-6
    correlation = torch.corrcoef(torch.stack([forward[shaken], backward[shaken]]))[0, 1]
    assert abs(correlation.item()) < 0.02
    assert forward.mean().item() == pytest.approx(1 - p, abs=0.005)


def test_shakedrop_shakes_an_image_as_a_whole() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 3, 4, 4)
    factors = (ShakeDrop(1.0).train()(x) / x).flatten(1)
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors), rtol=1e-3, atol=1e-4)
    assert len(factors[:, 0].unique()) == 16


def test_shakedrop_evaluates_to_its_mean() -> None:
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    y = ShakeDrop(0.25).eval()(x)
    torch.testing.assert_close(y, 0.75 * x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 0.75))


def test_shakedrop_of_zero_is_the_identity_in_both_modes() -> None:
    x = torch.randn(2, 3, 4, 4)
    for layer in (ShakeDrop(0.0).train(), ShakeDrop(0.0).eval()):
        torch.testing.assert_close(layer(x), x)


def test_shake_shake_mixes_with_other_shares_on_the_way_back() -> None:
    torch.manual_seed(0)
    first = torch.ones(IMAGES, 1, 1, 1, requires_grad=True)
    second = torch.zeros(IMAGES, 1, 1, 1, requires_grad=True)
    y = ShakeShake().train()(first, second)
    y.sum().backward()
    alpha, beta = y.detach().flatten().double(), first.grad.flatten().double()
    torch.testing.assert_close(first.grad + second.grad, torch.ones_like(first))
    for share in (alpha, beta):
        assert (share.mean().item(), share.var().item()) == (
            pytest.approx(0.5, abs=0.005),
            pytest.approx(1 / 12, abs=0.003),
        )
        assert 0 <= share.min() <= share.max() <= 1
    assert abs(torch.corrcoef(torch.stack([alpha, beta]))[0, 1].item()) < 0.02


def test_shake_shake_evaluates_to_the_mean() -> None:
    first, second = torch.randn(2, 2, 3, 4, 4).unbind()
    torch.testing.assert_close(ShakeShake().eval()(first, second), (first + second) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_layers_keep_forward_and_backward_apart(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1, 1, 1, dtype=dtype, requires_grad=True)
    y = torch.compile(ShakeDrop(1.0).train(), backend="aot_eager")(x)
    y.sum().backward()
    assert y.min() < -0.5
    assert x.grad.min() >= 0
    assert x.grad.double().mean().item() == pytest.approx(0.5, abs=0.05)


def in_half(layer: torch.nn.Module, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Output and the first input's gradient of a layer in training, on bf16 under autocast."""
    inputs = [x.bfloat16().requires_grad_() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        y = layer.train()(*inputs)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    return y.detach(), inputs[0].grad


def test_kept_residuals_are_unchanged_in_bf16() -> None:
    x = torch.randn(4000, 3, 1, 1)
    torch.manual_seed(0)
    y, gradient = in_half(ShakeDrop(0.5), x)
    torch.manual_seed(0)
    exact = x.bfloat16().float().requires_grad_()  # the same draws
    expected = ShakeDrop(0.5).train()(exact)
    expected.sum().backward()
    kept = (exact.grad == 1).all(1).flatten()
    assert 0.4 < kept.float().mean() < 0.6
    assert torch.equal(y[kept], x.bfloat16()[kept])
    assert torch.equal(expected[kept], exact[kept])
    assert torch.equal(gradient[kept], torch.ones_like(gradient[kept]))
    assert torch.equal(y, expected.bfloat16())
    assert torch.equal(gradient, exact.grad.bfloat16())


def test_shake_shake_in_bf16_is_float32_rounded_once() -> None:
    first, second = torch.randn(2, 500, 3, 2, 2).bfloat16().unbind()
    torch.manual_seed(0)
    y, _ = in_half(ShakeShake(), first, second)
    torch.manual_seed(0)
    assert torch.equal(y, ShakeShake().train()(first.float(), second.float()).bfloat16())


@pytest.mark.parametrize(("layer", "p"), [(DropPath, 0.1), (DropPath, 0.0125), (Dropout, 0.1), (Dropout, 0.3)])
def test_what_is_kept_has_its_exact_factor_in_bf16(layer: type[torch.nn.Module], p: float) -> None:
    """Each factor is rounded in bf16, by up to 0.4 %, and always to the same side."""
    x = torch.rand(2000, 8) + 0.5
    y, _ = in_half(layer(p), x)
    kept = y != 0
    assert (~kept).float().mean().item() == pytest.approx(p, abs=0.03)
    exact = x.bfloat16().double() / (1 - p)
    assert torch.equal(y[kept], exact[kept].float().bfloat16())
    whole = torch.rand(5, 3)
    assert layer(p).eval()(whole) is whole


def test_stochastic_depth_draws_what_torchvision_draws() -> None:
    from torchvision.ops import StochasticDepth

    x = torch.randn(64, 3, 2, 2)
    torch.manual_seed(5)
    expected = StochasticDepth(0.3, "row").train()(x)
    torch.manual_seed(5)
    assert torch.equal(DropPath(0.3).train()(x), expected)


@pytest.mark.parametrize(("backbone", "least"), [("efficientnet_b0", 16), ("timm:mobilenetv3_small_050", 6)])
def test_networks_of_libraries_draw_in_full_precision(backbone: str, least: int) -> None:
    (network,) = create_members(backbone, 1, 10, "imagenet", dropout=0.2, drop_path=0.2)
    ours = [m for m in network.modules() if isinstance(m, DropPath | Dropout)]
    others = [m for m in network.modules() if type(m).__name__ in ("DropPath", "StochasticDepth", "Dropout")]
    assert ours == others
    assert len(ours) >= least
    assert max(m.p for m in ours if isinstance(m, DropPath)) > 0.15
    assert draw_in_full_precision(torch.nn.Sequential(torch.nn.Dropout(0.1)))[0].p == 0.1
