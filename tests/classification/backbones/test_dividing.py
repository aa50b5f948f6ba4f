import math

import pytest

from classification.backbones.dividing import (
    divide_added_channels,
    divide_cardinality,
    divide_drop_probability,
    divide_growth_rate,
    divide_to_multiple,
    divide_weight_decay,
    divide_widen_factor,
    divide_width,
)
from divdet.engine.errors import UserError


def test_width_of_the_cifar_stem_is_the_appendix_table() -> None:
    assert [divide_width(16, s) for s in (1, 2, 4)] == [16, 12, 8]


@pytest.mark.parametrize("width", [15, 16, 32, 64, 96, 128])
@pytest.mark.parametrize("members", [2, 3, 4, 5, 8])
def test_divided_width_is_the_nearest_even_number(width: int, members: int) -> None:
    divided = divide_width(width, members)
    assert divided % 2 == 0
    assert abs(divided - width / math.sqrt(members)) <= 1


def test_one_member_keeps_an_odd_width() -> None:
    assert divide_width(15, 1) == 15


def test_widen_factor_gives_the_first_stages_of_the_published_networks() -> None:
    assert [16 * divide_widen_factor(8, s) for s in (1, 2, 4)] == [128, 96, 64]
    assert [16 * divide_widen_factor(10, s) for s in (1, 2, 4)] == [160, 112, 80]
    assert [64 * divide_widen_factor(k, 2) for k in (2, 3)] == [64, 128]


def test_cardinality() -> None:
    assert [divide_cardinality(8, s) for s in (1, 2, 3, 4, 8)] == [8, 4, 2, 2, 1]


def test_growth_rate_of_the_published_densenets() -> None:
    assert [divide_growth_rate(40, s) for s in (1, 2, 3, 4, 8)] == [40, 28, 22, 20, 14]


def test_channels_that_pyramidnet_adds() -> None:
    assert [divide_added_channels(200, s) / 90 for s in (1, 2, 4)] == pytest.approx([2.222, 1.571, 1.111], abs=5e-4)


def test_multiples_that_efficientnet_takes_off_its_table() -> None:
    assert [divide_to_multiple(32, s, 4) for s in (1, 2, 3, 4, 8)] == [32, 24, 20, 16, 12]
    assert divide_to_multiple(16, 100, 4) == 4


def test_drop_probability_of_table_5() -> None:
    assert divide_drop_probability(0.5, 2) == pytest.approx(0.35355, abs=1e-5)
    assert divide_drop_probability(0.2, 4) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("how", "members", "expected"),
    [
        ("none", 4, 5e-4),
        ("linear", 2, 2.5e-4),
        ("linear", 4, 1.25e-4),
        ("exponential", 1, 5e-4),
        ("exponential", 2, 3.032653e-4),  # 5e-4·e^(-1/2)
        ("exponential", 4, 2.361833e-4),  # 5e-4·e^(-3/4)
    ],
)
def test_weight_decay_of_table_5(how: str, members: int, expected: float) -> None:
    assert divide_weight_decay(5e-4, members, how) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("divide", "message"),
    [
        (lambda: divide_width(16, 0), "members is 0: choose a whole number from 1 to 1024"),
        (lambda: divide_width(16, True), "members is True: "),
        (lambda: divide_width(16, 300), "none would be left"),
        (lambda: divide_widen_factor(2, 16), "below 1"),
        (lambda: divide_growth_rate(40, 500), "none would be left"),
        (lambda: divide_cardinality(8, 16), "S may be at most 8"),
        (lambda: divide_drop_probability(1.0, 2), "drop probability"),
        (lambda: divide_weight_decay(1e-4, 2, "halved"), "none, exponential, linear"),
    ],
)
def test_what_no_rule_allows(divide, message: str) -> None:
    with pytest.raises(UserError, match=message):
        divide()
