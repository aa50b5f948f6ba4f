"""Default boxes against the released code's rows and torchvision's generator."""

import json
from pathlib import Path

import torch
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_convert

from detection.default_boxes import BOXES_PER_CELL, MAP_SIZES, ssd300_default_boxes


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
    image = torch.zeros(1, 3, 300, 300)
    maps = [torch.zeros(1, 1, size, size) for size in MAP_SIZES]
    theirs = box_convert(generator(ImageList(image, [(300, 300)]), maps)[0] / 300, "xyxy", "cxcywh").clamp(0, 1)
    # torchvision: row, column, shape; here: shape, row, column.
    levels = theirs.split([size**2 * shapes for size, shapes in zip(MAP_SIZES, BOXES_PER_CELL, strict=True)])
    theirs = torch.cat(
        [
            level.view(-1, shapes, 4).transpose(0, 1).reshape(-1, 4)
            for level, shapes in zip(levels, BOXES_PER_CELL, strict=True)
        ]
    )
    torch.testing.assert_close(ssd300_default_boxes(), theirs, rtol=0, atol=1e-6)


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
