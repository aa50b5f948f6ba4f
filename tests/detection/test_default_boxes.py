"""Default boxes against the released code's rows and torchvision's generator."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_convert

from detection import create_ssd
from detection.default_boxes import BOXES_PER_CELL, MAP_SIZES, create_default_boxes, ssd300_default_boxes
from detection.heads import SSD300_BOXES, SSD512_BOXES, BoxPlan
from detection.models.head import create_detector


def test_rows_and_sums_equal_the_released_code(shared: Path) -> None:
    text = (shared / "reference/released_checkpoints/expected_postprocess.json").read_text()
    expected = json.loads(text)["default_boxes_cxcywh"]
    boxes = ssd300_default_boxes()
    assert boxes.shape == (expected["n"], 4)
    assert boxes.dtype == torch.float32
    for row, values in expected["rows"].items():
        assert boxes[int(row)].tolist() == values
    sums = torch.tensor(expected["sum"], dtype=torch.float64)
    torch.testing.assert_close(boxes.double().sum(0), sums, rtol=1e-9, atol=0)


def test_boxes_equal_torchvisions_in_another_order() -> None:
    generator = DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
        clip=False,
    )
    theirs = of_torchvision(generator, MAP_SIZES, BOXES_PER_CELL, 300)
    torch.testing.assert_close(ssd300_default_boxes(), theirs, rtol=0, atol=1e-6)


def of_torchvision(generator: DefaultBoxGenerator, maps: tuple, shapes: tuple, size: int) -> Tensor:
    """Its boxes in our form and order."""
    levels = [torch.zeros(1, 1, cells, cells) for cells in maps]
    found = generator(ImageList(torch.zeros(1, 3, size, size), [(size, size)]), levels)[0] / size
    found = box_convert(found, "xyxy", "cxcywh").clamp(0, 1)
    # torchvision: row, column, shape; here: shape, row, column.
    parts = found.split([cells**2 * count for cells, count in zip(maps, shapes, strict=True)])
    pairs = zip(parts, shapes, strict=True)
    return torch.cat([part.view(-1, count, 4).transpose(0, 1).reshape(-1, 4) for part, count in pairs])


def test_ssd512s_boxes_equal_torchvisions_given_the_papers_scales() -> None:
    ratios = [[2], [2, 3], [2, 3], [2, 3], [2, 3], [2], [2]]
    scales = [0.04, 0.1, 0.26, 0.42, 0.58, 0.74, 0.9, 1.06]
    generator = DefaultBoxGenerator(ratios, scales=scales, steps=[8, 16, 32, 64, 128, 256, 512], clip=False)
    theirs = of_torchvision(generator, (64, 32, 16, 8, 4, 2, 1), (4, 6, 6, 6, 6, 4, 4), 512)
    ours = create_default_boxes(SSD512_BOXES, 512)
    assert len(ours) == 24_564
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("head", "plan", "size"),
    [
        ("ssd300", SSD300_BOXES, 257),
        ("ssd300", SSD300_BOXES, 411),
        ("ssd512", SSD512_BOXES, 128),
        ("ssd512", SSD512_BOXES, 512),
    ],
)
def test_a_network_makes_one_output_for_each_default_box_at_any_size(head: str, plan: BoxPlan, size: int) -> None:
    with torch.device("meta"):
        model = create_detector(head, "resnet10_16", 1, 2, size).eval()
        deltas, logits = model(torch.zeros(1, 3, size, size))
    boxes = create_default_boxes(plan, size)
    assert torch.equal(model.default_boxes, boxes)
    assert deltas.shape == (1, 1, len(boxes), 4)
    assert logits.shape == (1, 1, len(boxes), 3)
    assert boxes.min() > 0
    assert boxes.max() <= 1


def test_default_boxes_cover_the_same_share_at_every_size() -> None:
    """The smallest and the largest side, and every level's first center: half a stride of 8, 16, 32 and 64 pixels."""
    sides = {}
    for size in (300, 600):
        boxes = create_default_boxes(SSD300_BOXES, size)
        sides[size] = boxes[:, 2:].unique()
        counts = [shapes * cells**2 for shapes, cells in zip(BOXES_PER_CELL, SSD300_BOXES.map_sizes(size), strict=True)]
        firsts = torch.tensor([0, *counts]).cumsum(0)[:4]
        torch.testing.assert_close(boxes[firsts, 0] * size, torch.tensor([4.0, 8, 16, 32]))
    torch.testing.assert_close(sides[300], sides[600])


def test_sizes_and_weights_do_not_belong_together() -> None:
    """The weights of one size fit every other."""
    small, large = (
        create_detector("ssd300", "resnet10_16", 1, 2, 300),
        create_detector("ssd300", "resnet10_16", 1, 2, 500),
    )
    large.load_state_dict(small.state_dict())
    assert small.state_dict().keys() == create_ssd("resnet10_16", 1, 2).state_dict().keys()


def test_centers_and_sides_are_clamped_not_corners() -> None:
    boxes = ssd300_default_boxes()
    assert boxes.min() > 0
    assert boxes.max() == 1
    assert box_convert(boxes, "cxcywh", "xyxy").max() > 1
    assert boxes[8731, 3] == 1
    assert boxes[8730, 2] == 1


def test_changing_a_result_leaves_the_next_call_alone() -> None:
    before = ssd300_default_boxes()
    ssd300_default_boxes().zero_()
    assert torch.equal(ssd300_default_boxes(), before)
