"""Targets and loss against torchvision's SSD, where the conventions coincide, and against hand-computed values."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torchvision.models.detection._utils import SSDMatcher
from torchvision.models.detection.ssd import SSD as TorchvisionSSD
from torchvision.ops import box_convert, box_iou

from detection.default_boxes import ssd300_default_boxes
from detection.models.box_coder import decode
from detection.models.matcher import Matcher
from detection.models.multibox_loss import multibox_loss


def random_truth(generator: torch.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    corner = torch.rand(count, 2, generator=generator) * 0.7
    size = 0.02 + torch.rand(count, 2, generator=generator) * 0.28
    return torch.cat([corner, corner + size], dim=1), torch.randint(0, 5, (count,), generator=generator)


@pytest.mark.parametrize("seed", range(4))
def test_matching_equals_torchvision(seed: int) -> None:
    boxes, labels = random_truth(torch.Generator().manual_seed(seed), 12)
    defaults = ssd300_default_boxes()
    corners = box_convert(defaults, "cxcywh", "xyxy")
    expected = SSDMatcher(0.5)(box_iou(boxes, corners))
    deltas, classes = Matcher(defaults)(boxes[None], labels[None])
    positive = expected >= 0
    assert torch.equal(classes[0] > 0, positive)
    assert torch.equal(classes[0][positive], labels[expected[positive]] + 1)
    back = decode(deltas[0][positive], defaults[positive])
    torch.testing.assert_close(back, boxes[expected[positive]], atol=1e-5, rtol=0)


def test_every_truth_has_a_default_box_and_padding_has_none() -> None:
    tiny = torch.tensor([[0.5, 0.5, 0.503, 0.503]])
    boxes = torch.zeros(2, 3, 4)
    boxes[0, :1] = tiny
    labels = torch.tensor([[4, -1, -1], [-1, -1, -1]])
    _, classes = Matcher(ssd300_default_boxes())(boxes, labels)
    assert (classes[0] > 0).sum() == 1
    assert classes[0].max() == 5
    assert (classes[1] == 0).all()


def test_truths_that_share_a_default_box_leave_it_to_the_later() -> None:
    defaults = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1]])
    boxes = torch.tensor([[[0.3, 0.3, 0.7, 0.7], [0.35, 0.3, 0.7, 0.7]]])
    _, classes = Matcher(defaults)(boxes, torch.tensor([[0, 1]]))
    assert classes.tolist() == [[2, 0]]


def test_an_iou_of_exactly_one_half_is_background() -> None:
    defaults = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.5, 0.375, 0.5, 0.25], [0.5, 0.4375, 0.5, 0.375]])
    boxes = torch.tensor([[[0.25, 0.25, 0.75, 0.75]]])  # IoU 1, 1/2 and 3/4
    _, classes = Matcher(defaults)(boxes, torch.tensor([[4]]))
    assert classes.tolist() == [[5, 0, 5]]


def test_a_batch_without_any_object() -> None:
    deltas, classes = Matcher(ssd300_default_boxes())(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64))
    assert deltas.shape == (2, 8732, 4)
    assert not classes.any()


@pytest.mark.parametrize("seed", range(3))
def test_loss_of_one_image_equals_torchvision(seed: int) -> None:
    """On one image, "per image" and "per batch" are the same division."""
    generator = torch.Generator().manual_seed(seed)
    boxes, labels = random_truth(generator, 7)
    defaults = ssd300_default_boxes()
    corners = box_convert(defaults, "cxcywh", "xyxy")
    deltas = torch.randn(1, 1, 8732, 4, generator=generator)
    logits = torch.randn(1, 1, 8732, 6, generator=generator)

    # torchvision's own method, given what it reads of its instance
    reference = TorchvisionSSD.__new__(TorchvisionSSD)
    torch.nn.Module.__init__(reference)
    from torchvision.models.detection._utils import BoxCoder

    reference.box_coder, reference.neg_to_pos_ratio = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)), 3
    expected = reference.compute_loss(
        [{"boxes": boxes, "labels": labels + 1}],
        {"bbox_regression": deltas[0], "cls_logits": logits[0]},
        [corners],
        [SSDMatcher(0.5)(box_iou(boxes, corners))],
    )
    targets = Matcher(defaults)(boxes[None], labels[None])
    found = multibox_loss(deltas, logits, *targets)
    torch.testing.assert_close(found["localization"], expected["bbox_regression"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["classification"], expected["classification"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["loss"], found["localization"] + found["classification"])


def test_loss_is_the_mean_of_images_and_the_sum_of_members() -> None:
    generator = torch.Generator().manual_seed(0)
    matcher = Matcher(ssd300_default_boxes())
    deltas, logits = torch.randn(2, 3, 8732, 4, generator=generator), torch.randn(2, 3, 8732, 6, generator=generator)
    truths = [random_truth(generator, count) for count in (5, 5, 5)]
    boxes, labels = (torch.stack(part) for part in zip(*truths, strict=True))
    whole = multibox_loss(deltas, logits, *matcher(boxes, labels))
    single = [0, 0]
    for n in range(3):
        targets = matcher(boxes[n : n + 1], labels[n : n + 1])
        for s in range(2):
            one = multibox_loss(deltas[s : s + 1, n : n + 1], logits[s : s + 1, n : n + 1], *targets)
            assert "loss_member1" not in one
            single[s] += one["loss"] / 3
    torch.testing.assert_close(whole["loss"], sum(single))
    torch.testing.assert_close([whole["loss_member1"], whole["loss_member2"]], single)


def test_an_image_without_objects_supervises_its_three_hardest_negatives() -> None:
    logits = torch.zeros(1, 1, 8732, 2)
    logits[0, 0, 7, 1], logits[0, 0, 9, 1] = 5.0, 3.0
    none = torch.zeros(1, 8732, dtype=torch.int64)
    found = multibox_loss(torch.zeros(1, 1, 8732, 4), logits, torch.zeros(1, 8732, 4), none)
    expected = torch.nn.functional.softplus(torch.tensor([5.0, 3.0, 0.0])).sum()
    torch.testing.assert_close(found["classification"], expected)
    assert found["localization"] == 0
    everything = multibox_loss(torch.zeros(1, 1, 8732, 4), logits, torch.zeros(1, 8732, 4), none, neg_to_pos_ratio=1e30)
    torch.testing.assert_close(everything["classification"], torch.nn.functional.softplus(logits[..., 1]).sum())


def test_co_training_term_is_the_divergence_at_positives_and_mined_negatives() -> None:
    logits = torch.zeros(2, 1, 8732, 3)
    classes = torch.zeros(1, 8732, dtype=torch.int64)
    classes[0, 100] = 2
    logits[0, 0, 100, 2] = 3.0  # the members differ at the positive,
    logits[0, 0, 7, 1], logits[1, 0, 9, 1] = 5.0, 4.0  # at a negative that each mines,
    logits[1, 0, 5000, 0] = 6.0  # and at an easy negative, which neither does
    deltas = torch.zeros(2, 1, 8732, 4)
    found = multibox_loss(deltas, logits, deltas[0], classes, neg_to_pos_ratio=1.0, cot_weight=0.5)
    p = logits[:, 0, [100, 7, 9]].double().softmax(-1)
    entropy = -(p * p.log()).sum(-1)
    mean = p.mean(0)
    expected = (-(mean * mean.log()).sum(-1) - entropy.mean(0)).sum()
    torch.testing.assert_close(found["cot"].double(), expected, rtol=1e-5, atol=0)
    plain = multibox_loss(deltas, logits, deltas[0], classes, neg_to_pos_ratio=1.0)
    assert "cot" not in plain
    torch.testing.assert_close(found["loss"], plain["loss"] + 0.5 * found["cot"])


def test_loss_in_bf16_is_finite_and_close() -> None:
    generator = torch.Generator().manual_seed(1)
    boxes, labels = random_truth(generator, 6)
    targets = Matcher(ssd300_default_boxes())(boxes[None], labels[None])
    deltas, logits = torch.randn(1, 1, 8732, 4, generator=generator), torch.randn(1, 1, 8732, 6, generator=generator)
    exact = multibox_loss(deltas, logits, *targets)["loss"]
    coarse = multibox_loss(deltas.bfloat16(), logits.bfloat16(), *targets)["loss"]
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, exact, rtol=0.02, atol=0.05)


def test_a_gpu_is_not_waited_for() -> None:
    """Tensors without values, of a GPU that need not be there: whatever depends on a value raises."""
    with FakeTensorMode():
        matcher = Matcher(torch.empty(8732, 4, device="cuda"))
        boxes, labels = torch.empty(4, 7, 4, device="cuda"), torch.empty(4, 7, dtype=torch.int64, device="cuda")
        targets = matcher(boxes, labels)
        deltas = torch.empty(2, 4, 8732, 4, device="cuda", dtype=torch.bfloat16)
        logits = torch.empty(2, 4, 8732, 21, device="cuda", dtype=torch.bfloat16)
        losses = multibox_loss(deltas, logits, *targets, cot_weight=0.5)
        assert {loss.device.type for loss in losses.values()} == {"cuda"}
        with pytest.raises(DataDependentOutputException):
            losses["loss"].item()


@pytest.mark.parametrize("members", [1, 2])
def test_what_a_gpu_computes_is_what_the_cpu_computes(members: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's way, run on a CPU: all default boxes, those that do not count with a weight of 0."""
    generator = torch.Generator().manual_seed(3)
    truths = [random_truth(generator, 5) for _ in range(3)]
    boxes, labels = (torch.stack(part) for part in zip(*truths, strict=True))
    labels[1, 2:], labels[2] = -1, -1
    boxes[labels < 0] = 0
    outputs = [torch.randn(members, 3, 8732, size, generator=generator).requires_grad_() for size in (4, 6)]

    def computed() -> list[torch.Tensor]:
        targets = Matcher(ssd300_default_boxes())(boxes, labels)
        losses = multibox_loss(*outputs, *targets, cot_weight=0.5)
        return [*targets, *losses.values(), *torch.autograd.grad(losses["loss"], outputs)]

    expected = computed()
    for module in ("detection.models.matcher", "detection.models.multibox_loss"):
        monkeypatch.setattr(f"{module}.rows_of", lambda mask: slice(None))
    monkeypatch.setattr(Matcher, "_computed", staticmethod(lambda real: [real.shape[1]] * len(real)))
    for found, wanted in zip(computed(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(computed()[1], expected[1])
