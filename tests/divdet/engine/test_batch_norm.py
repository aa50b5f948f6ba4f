"""Which batch norms are frozen."""

import pytest
import torch

from detection import create_ssd
from divdet.engine.batch_norm import freeze
from divdet.engine.settings import BatchNorm


@pytest.mark.parametrize(
    ("setting", "moving"),
    [("own", {"members", "adapters", "extras"}), ("frozen", set()), ("frozen_backbone", {"adapters", "extras"})],
)
def test_what_is_frozen_keeps_its_statistics(setting: BatchNorm, moving: set[str]) -> None:
    torch.manual_seed(0)
    model = create_ssd("timm:mobilenetv3_small_050", 1, 2)
    before = {name: value.clone() for name, value in model.named_buffers() if "running_" in name}
    model.train()
    freeze(model, setting)
    model(torch.randn(2, 3, 300, 300))
    moved = {name for name, value in model.named_buffers() if name in before and not torch.equal(value, before[name])}
    assert {name.partition(".")[0] for name in moved} == moving
    for part in moving:  # all of it
        assert {name for name in before if name.startswith(part)} <= moved
