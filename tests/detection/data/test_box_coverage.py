"""Objects and default boxes, against every IoU by torchvision."""

import numpy as np
import torch
from torchvision.ops import box_convert, box_iou

from detection.data.box_coverage import best_iou, needed_input_sizes
from detection.default_boxes import ssd300_default_boxes


def test_the_best_iou_is_that_of_all_default_boxes() -> None:
    random = np.random.default_rng(0)
    corners = np.sort(random.random((300, 2, 2)) ** 2, axis=1)  # many near the upper left corner, of all shapes
    corners[:150] = 1 - corners[:150, ::-1]  # and near the lower right one, where centers are clamped
    boxes = corners.reshape(-1, 4)
    expected = box_iou(torch.from_numpy(boxes), box_convert(ssd300_default_boxes().double(), "cxcywh", "xyxy")).amax(1)
    np.testing.assert_allclose(best_iou(boxes, 300), expected, atol=1e-6)


def test_small_objects_need_a_larger_input() -> None:
    square = np.array([[0.5, 0.5, 0.5, 0.5]]) + np.array([[-1, -1, 1, 1]]) * 12 / 4000  # 24 of 4,000 pixels
    line = np.array([[0.1, 0.5, 0.9, 0.502]])
    large = np.array([[0.1, 0.1, 0.9, 0.9]])
    # 24.6 pixels, 4 off the center of a default box of 21 on either axis: 18.8² / (24.6² + 21² - 18.8²) = 0.51
    assert needed_input_sizes(np.concatenate([square, line, large])).tolist() == [4096, 0, 300]
