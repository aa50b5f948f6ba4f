"""Box coding against torchvision's coder and hand-computed values."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_convert

from detection.default_boxes import ssd300_default_boxes
from detection.models.box_coder import decode, encode

PEER = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))


def random_boxes(*shape: int) -> Tensor:
    """[*shape, 4] xyxy with sides of 0.02 to 0.5."""
    corners = torch.rand(*shape, 2)
    return torch.cat((corners, corners + 0.02 + 0.48 * torch.rand(*shape, 2)), dim=-1)


def test_decode_by_hand() -> None:
    default_box = torch.tensor([0.5, 0.4, 0.2, 0.1])
    # Centre moves by 1 * 0.1 * 0.2 and -2 * 0.1 * 0.1; sides double and stay.
    deltas = torch.tensor([1.0, -2.0, math.log(2) / 0.2, 0.0])
    torch.testing.assert_close(decode(deltas, default_box), torch.tensor([0.32, 0.33, 0.72, 0.43]))
    torch.testing.assert_close(encode(torch.tensor([0.32, 0.33, 0.72, 0.43]), default_box), deltas)


def test_encode_equals_torchvision() -> None:
    torch.manual_seed(0)
    default_boxes, boxes = ssd300_default_boxes(), random_boxes(8732)
    theirs = PEER.encode_single(boxes, box_convert(default_boxes, "cxcywh", "xyxy"))
    torch.testing.assert_close(encode(boxes, default_boxes), theirs, rtol=1e-4, atol=2e-4)
    assert theirs.abs().max() > 5


def test_decode_equals_torchvision_even_for_huge_sizes() -> None:
    torch.manual_seed(1)
    default_boxes, deltas = ssd300_default_boxes(), 2 * torch.randn(8732, 4)
    deltas[::100, 2:] = 1000
    theirs = PEER.decode_single(deltas, box_convert(default_boxes, "cxcywh", "xyxy"))
    torch.testing.assert_close(decode(deltas, default_boxes), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_decode_undoes_encode_over_leading_dimensions(leading: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    default_boxes, boxes = ssd300_default_boxes()[::50], random_boxes(*leading, 175)
    deltas = encode(boxes, default_boxes)
    assert deltas.shape == boxes.shape
    torch.testing.assert_close(decode(deltas, default_boxes), boxes, rtol=0, atol=1e-6)
    if leading:
        torch.testing.assert_close(deltas.flatten(0, -3)[-1], encode(boxes.flatten(0, -3)[-1], default_boxes))


def test_half_precision_is_computed_in_float32_and_inputs_stay() -> None:
    torch.manual_seed(3)
    default_boxes, deltas = ssd300_default_boxes(), torch.randn(2, 8732, 4).bfloat16()
    before = deltas.clone()
    boxes = decode(deltas, default_boxes)
    assert boxes.dtype == torch.float32
    assert torch.equal(deltas, before)
    assert torch.equal(boxes, decode(deltas.float(), default_boxes))
    assert torch.equal(default_boxes, ssd300_default_boxes())
