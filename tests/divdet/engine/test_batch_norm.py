"""Which statistics batch norms use."""

import numpy as np
import pytest
import torch
from torch import nn

from detection import create_ssd
from divdet.engine.batch_norm import estimate, freeze
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


def test_statistics_are_averages_over_batches() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2, momentum=0.01), nn.Dropout(0.0))
    batches = [torch.randn(4, 2, 3, 3) * 5 + 7 for _ in range(3)]
    model(torch.randn(2, 2, 2, 2))  # forgotten
    estimate(model, batches, model)
    layer = model[0]
    assert layer.running_mean.tolist() == pytest.approx(np.mean([one.mean((0, 2, 3)) for one in batches], 0), rel=1e-5)
    assert layer.running_var.tolist() == pytest.approx(np.mean([one.var((0, 2, 3)) for one in batches], 0), rel=1e-5)
    assert (layer.momentum, int(layer.num_batches_tracked)) == (0.01, 3)
