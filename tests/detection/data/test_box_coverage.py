"""Objects and default boxes, against every IoU by torchvision."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_convert, box_iou

from detection.data.box_coverage import best_iou, needed_input_sizes
from detection.default_boxes import create_default_boxes
from detection.heads import SSD300_BOXES, SSD512_BOXES, SSDLITE_BOXES, BoxPlan


@pytest.mark.parametrize(
    ("plan", "size"), [(SSD300_BOXES, 300), (SSD300_BOXES, 427), (SSD512_BOXES, 512), (SSDLITE_BOXES, 320)]
)
def test_the_best_iou_is_that_of_all_default_boxes(plan: BoxPlan, size: int) -> None:
    random = np.random.default_rng(0)
    corners = np.sort(random.random((300, 2, 2)) ** 2, axis=1)  # many near the upper left corner, of all shapes
    corners[:150] = 1 - corners[:150, ::-1]  # and near the lower right one, where centers are clamped
    boxes = corners.reshape(-1, 4)
    expected = box_iou(
        torch.from_numpy(boxes), box_convert(create_default_boxes(plan, size).double(), "cxcywh", "xyxy")
    ).amax(1)
    np.testing.assert_allclose(best_iou(boxes, size, plan, size), expected, atol=1e-6)


def test_small_objects_need_a_larger_input() -> None:
    square = np.array([[0.5, 0.5, 0.5, 0.5]]) + np.array([[-1, -1, 1, 1]]) * 12 / 4000  # 24 of 4,000 pixels
    line = np.array([[0.1, 0.5, 0.9, 0.502]])
    large = np.array([[0.1, 0.1, 0.9, 0.9]])
    objects = np.concatenate([square, line, large])
    # 24.6 pixels, 4 off the center of a default box of 21 on either axis: 18.8² / (24.6² + 21² - 18.8²) = 0.51
    assert needed_input_sizes(objects, SSD300_BOXES, 300).tolist() == [4096, 0, 300]
