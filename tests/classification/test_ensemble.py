import numpy as np
import pytest
import torch

from classification import combine, create_ensemble
from classification.ensemble import cosine_similarity
from divdet.engine.errors import UserError


def test_members_are_independent() -> None:
    net = create_ensemble("resnet10_16", members=2, num_classes=10, dataset="cifar10")
    first, second = net.members
    assert not {p.data_ptr() for p in first.parameters()} & {p.data_ptr() for p in second.parameters()}
    assert not torch.equal(first.layer1[0].conv1.weight, second.layer1[0].conv1.weight)


def test_members_see_the_same_images_or_their_own_views() -> None:
    net = create_ensemble("resnet10_16", members=3, num_classes=10, dataset="cifar10").eval()
    views = torch.randn(3, 2, 3, 32, 32)
    with torch.no_grad():
        own, same = net(views), net(views[0])
        for i, member in enumerate(net.members):
            torch.testing.assert_close(own[i], member(views[i]))
            torch.testing.assert_close(same[i], member(views[0]))
    assert own.shape == (3, 2, 10)


@pytest.mark.parametrize("shape", [(2, 2, 3, 32, 32), (3, 32, 32), (1, 3, 2, 3, 32, 32)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    net = create_ensemble("resnet10_16", members=3, num_classes=10, dataset="cifar10")
    with pytest.raises(ValueError, match="one view a member"):
        net(torch.zeros(shape))


def test_dropout_is_divided() -> None:
    net = create_ensemble("resnet10_16", members=4, num_classes=10, dataset="cifar10", dropout=0.2)
    assert [member.dropout.p for member in net.members] == pytest.approx([0.1] * 4)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("how", "after_softmax", "expected"),
    [
        ("mean", False, lambda z: z.mean(0)),
        ("mean", True, lambda z: softmax(z).mean(0)),
        ("max", False, lambda z: z.max(0)),
        ("max", True, lambda z: softmax(z).max(0)),
        ("geometric", False, lambda z: softmax(z).prod(0) ** (1 / 3)),
        ("geometric", True, lambda z: softmax(z).prod(0) ** (1 / 3)),
    ],
)
def test_combinations_of_table_6(how: str, after_softmax: bool, expected) -> None:
    logits = np.random.RandomState(0).standard_normal((3, 5, 7)) * 3
    combined = combine(torch.from_numpy(logits), how, after_softmax)
    np.testing.assert_allclose(combined.numpy(), expected(logits), rtol=1e-12)


def test_max_predicts_as_the_most_confident_member() -> None:
    logits = torch.randn(4, 50, 10, generator=torch.Generator().manual_seed(0))
    probabilities = logits.softmax(-1)
    most_confident = probabilities.amax(-1).argmax(0)
    predictions = probabilities.argmax(-1)[most_confident, torch.arange(50)]
    assert torch.equal(combine(logits, "max", softmax=True).argmax(-1), predictions)


def test_geometric_mean_survives_vanishing_probabilities_in_half_precision() -> None:
    logits = torch.tensor([[[0.0, 200.0, 100.0]], [[0.0, 100.0, 200.0]]], dtype=torch.bfloat16)
    combined = combine(logits, "geometric")
    assert combined.dtype == torch.float32
    torch.testing.assert_close(combined[0, 1:], torch.full((2,), np.exp(-50.0), dtype=torch.float32))


def test_combine_refuses_what_it_does_not_know() -> None:
    with pytest.raises(UserError, match="mean, max, geometric, not 'median'"):
        combine(torch.zeros(2, 3, 4), "median")
    for given, kind in (
        (torch.zeros(3, 4), r"\[3, 4\]"),
        (torch.zeros(0, 3, 4), r"\[0, 3, 4\]"),
        ([torch.zeros(3, 4)] * 2, "list"),
        (np.zeros((2, 3, 4)), "ndarray"),
    ):
        with pytest.raises(ValueError, match=rf"\[S,N,C\].*not {kind}$"):
            combine(given)


def test_cosine_similarity_averages_over_pairs() -> None:
    a, b, c = [1.0, 0.0], [0.0, 2.0], [3.0, 3.0]  # cosines 0, √½, √½
    logits = torch.tensor([[a], [b], [c]])
    assert cosine_similarity(logits) == pytest.approx(2 * 0.5**0.5 / 3)
    assert cosine_similarity(logits[:1]) is None
