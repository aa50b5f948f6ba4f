"""Post-processing against the released code's results and a plain loop over images and classes."""

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_convert, nms

from detection import postprocess as module
from detection.default_boxes import ssd300_default_boxes
from detection.kernels import compiled as kernels
from detection.kernels import nms as kernel
from detection.postprocess import (
    Boxes,
    best_boxes_compiled,
    best_boxes_torch,
    fuse,
    member_boxes,
    postprocess,
)
from detection.prediction_settings import PostprocessSettings
from divdet.engine.errors import UserError


@pytest.fixture(params=["compiled", "torch"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test with the compiled pass and with the one of other devices, both on the CPU."""
    monkeypatch.setattr(module, "best_boxes_compiled", getattr(module, f"best_boxes_{request.param}"))


def released_outputs(seed: int) -> tuple[Tensor, Tensor]:
    """The recipe of the expected results: deltas [8732, 4] and logits [8732, 81] of one member on one image."""
    rs = np.random.RandomState(seed)
    conf = rs.standard_normal((1, 81, 8732)).astype(np.float32)
    conf[:, 0] += 6
    loc = rs.standard_normal((1, 4, 8732)).astype(np.float32)
    for _ in range(60):
        anchor, label = rs.randint(0, 8724), rs.randint(1, 81)
        conf[0, label, anchor : anchor + 6] += rs.uniform(6, 11)
    return torch.from_numpy(loc[0].T.copy()), torch.from_numpy(conf[0].T.copy())


def random_outputs(seed: int, members: int, images: int, classes: int, boxes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Deltas, logits, default boxes; every ninth default box comes twice, with equal scores."""
    generator = torch.Generator().manual_seed(seed)
    deltas = torch.randn(members, images, boxes, 4, generator=generator)
    logits = 2 * torch.randn(members, images, boxes, classes + 1, generator=generator)
    logits[..., 0] += 2
    logits[:, :, 1::9] = logits[:, :, : (boxes - 2) // 9 * 9 + 1 : 9]
    picked = torch.randint(8732, (boxes,), generator=generator)
    return deltas, logits, ssd300_default_boxes()[picked]


def plain_loop(
    deltas: Tensor, logits: Tensor, default_boxes: Tensor, settings: PostprocessSettings, limit: int
) -> Boxes:
    """One member on one image, class by class, by torchvision."""
    decoder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    boxes = decoder.decode_single(deltas, box_convert(default_boxes, "cxcywh", "xyxy"))
    probabilities = logits.softmax(-1)
    found = []
    for label in range(logits.shape[1] - 1):
        scores = probabilities[:, label + 1]
        candidates = [row for row in scores.argsort(descending=True, stable=True).tolist()
                      if scores[row] > settings.score_threshold][: settings.candidates_per_class]  # fmt: skip
        kept = [candidates[i] for i in nms(boxes[candidates], scores[candidates], settings.nms_iou)]
        found += [(float(scores[row]), label, boxes[row]) for row in kept]
    found = sorted(found, key=lambda item: -item[0])[:limit]
    if not found:
        return Boxes(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    scores, labels, corners = zip(*found, strict=True)
    return Boxes(torch.stack(corners), torch.tensor(scores), torch.tensor(labels))


def assert_close(ours: Boxes, expected: Boxes) -> None:
    assert ours.labels.tolist() == expected.labels.tolist()
    torch.testing.assert_close(ours.scores, expected.scores, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.boxes, expected.boxes, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("case", "seeds"), [("S1_seed7", [7]), ("S2_seed7_8", [7, 8])])
@pytest.mark.usefixtures("each_way")
def test_equals_the_released_code(shared: Path, case: str, seeds: list[int]) -> None:
    text = (shared / "reference/released_checkpoints/expected_postprocess.json").read_text()
    expected = json.loads(text)[case]
    deltas, logits = (torch.stack(outputs)[:, None] for outputs in zip(*map(released_outputs, seeds), strict=True))
    (found,) = postprocess(deltas, logits, ssd300_default_boxes(), PostprocessSettings())
    assert len(found.scores) == expected["n"]
    torch.testing.assert_close(found.boxes, torch.tensor(expected["boxes_ltrb"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.scores, torch.tensor(expected["scores"]), rtol=0, atol=1e-5)
    assert (found.labels + 1).tolist() == expected["labels"]  # the released code counts the background


@pytest.mark.parametrize(
    "settings",
    [
        PostprocessSettings(),
        PostprocessSettings(0.01, candidates_per_class=7, nms_iou=0.3, max_per_member=25),
        PostprocessSettings(0.2, candidates_per_class=1, nms_iou=0.0, max_per_member=3),
    ],
)
@pytest.mark.usefixtures("each_way")
def test_members_equal_a_plain_loop(settings: PostprocessSettings) -> None:
    deltas, logits, default_boxes = random_outputs(0, members=2, images=3, classes=5, boxes=300)
    logits[0, 1, :, 0] = 100  # an image without a find between two others
    before = deltas.clone(), logits.clone(), default_boxes.clone()
    found = member_boxes(deltas, logits, default_boxes, settings)
    assert len(found) == 2
    assert [len(images) for images in found] == [3, 3]
    for member in range(2):
        for image in range(3):
            ours = found[member][image]
            limit = settings.max_per_member or 400
            assert_close(ours, plain_loop(deltas[member, image], logits[member, image], default_boxes, settings, limit))
            assert ours.boxes.dtype == ours.scores.dtype == torch.float32
            assert ours.labels.dtype == torch.int64
    assert not len(found[0][1].scores)
    assert all(torch.equal(*pair) for pair in zip(before, (deltas, logits, default_boxes), strict=True))


@pytest.mark.parametrize("per_class", [7, 1000])
@pytest.mark.parametrize("boxes", [60, 900])  # batched_nms of torchvision has one way for few boxes and one for many
def test_the_compiled_pass_equals_torch(per_class: int, boxes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = PostprocessSettings(0.1, candidates_per_class=per_class)
    deltas, logits, default_boxes = random_outputs(5, members=2, images=3, classes=5, boxes=boxes)
    logits[1, 1, :, 0] = 100
    compiled = member_boxes(deltas, logits, default_boxes, settings)
    monkeypatch.setattr(module, "best_boxes_compiled", module.best_boxes_torch)
    found = member_boxes(deltas, logits, default_boxes, settings)
    assert not len(found[1][1].scores)
    for ours, theirs in zip(chain(*compiled), chain(*found), strict=True):
        torch.testing.assert_close(tuple(ours), tuple(theirs), rtol=1e-6, atol=1e-7)
    assert sum(len(boxes.scores) for boxes in chain(*found)) > 30


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("each_way")
def test_equals_torchvisions_ssd(seed: int) -> None:
    deltas, logits, default_boxes = random_outputs(seed, members=1, images=2, classes=6, boxes=400)
    logits += 1e-3 * torch.randn(logits.shape)  # torchvision breaks ties as it likes
    deltas *= 0.5
    default_boxes = default_boxes * torch.tensor([0.6, 0.6, 0.1, 0.1]) + 0.2  # torchvision clips: keep all inside
    peer = SimpleNamespace(box_coder=BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)), score_thresh=0.01, topk_candidates=40,
                           nms_thresh=0.45, detections_per_img=50)  # fmt: skip
    head = {"bbox_regression": deltas[0], "cls_logits": logits[0]}
    anchors = [box_convert(default_boxes, "cxcywh", "xyxy")] * 2
    expected = SSD.postprocess_detections(peer, head, anchors, [(1, 1)] * 2)
    settings = PostprocessSettings(0.01, candidates_per_class=40, nms_iou=0.45, max_per_member=50)
    for ours, theirs in zip(postprocess(deltas, logits, default_boxes, settings), expected, strict=True):
        assert_close(ours, Boxes(theirs["boxes"], theirs["scores"], theirs["labels"] - 1))
        assert len(ours.scores) > 20
        assert 0 < ours.boxes.min() < ours.boxes.max() < 1


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.3, 1.0])
def test_rows_without_a_score_above_the_threshold_are_left_out_safely(threshold: float) -> None:
    # Scores at, just below and just above the threshold, behind small and large backgrounds; some classes ruled out.
    generator = torch.Generator().manual_seed(0)
    offset = torch.tensor(min(max(threshold, 1e-6), 1 - 1e-6)).logit()
    background = torch.tensor([0.0, 5.0, -80.0, 1e3, -1e5]).repeat(80)
    logits = torch.full((400, 4), -torch.inf)
    logits[:, 0] = background
    logits[:, 1] = background + offset + 1e-5 * torch.randn(400, generator=generator)
    logits[::3, 2] = logits[::3, 1] - 1
    logits[7, 0] = -torch.inf
    deltas, boxes = torch.zeros(1, 1, 400, 4), torch.rand(400, 4, generator=generator) + 0.01
    settings = PostprocessSettings(threshold, candidates_per_class=400, nms_iou=1.0, max_per_member=1200)
    (found,) = postprocess(deltas, logits[None, None], boxes, settings)
    scores = np.empty((400, 4), np.float32)
    for row, row_scores in zip(logits.numpy(), scores, strict=True):
        kernel.softmax(row, row_scores)
    scores = torch.from_numpy(scores)
    torch.testing.assert_close(scores, logits.softmax(-1), rtol=1e-6, atol=0)
    scores = scores[:, 1:]
    assert torch.equal(found.scores, scores[scores > settings.score_threshold].sort(descending=True)[0])


def test_the_number_of_threads_does_not_change_results(monkeypatch: pytest.MonkeyPatch) -> None:
    deltas, logits, default_boxes = random_outputs(6, members=2, images=5, classes=4, boxes=200)
    monkeypatch.setattr(module, "BOXES_PER_THREAD", 10)
    monkeypatch.setattr(module, "LOGITS_PER_THREAD", 10)
    shared_out, in_threads = [], kernels.in_threads

    def counting(work: Callable, total: int, threads: int) -> None:
        shared_out.append(min(total, threads))
        in_threads(work, total, threads)

    monkeypatch.setattr(kernels, "in_threads", counting)
    results = []
    for number in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda number=number: number)
        results.append(postprocess(deltas, logits, default_boxes, PostprocessSettings()))
    assert shared_out == [1, 1, 3, 3]  # of boxes and of fusion
    for one, many in zip(*results, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, many, strict=True))
    assert postprocess(deltas[:, :0], logits[:, :0], default_boxes, PostprocessSettings()) == []


@pytest.mark.usefixtures("each_way")
def test_equal_scores_are_found_in_the_order_of_default_boxes() -> None:
    default_boxes = torch.tensor([[x / 10, 0.5, 0.05, 0.05] for x in range(1, 9)])
    logits = torch.zeros(1, 1, 8, 3)
    found = postprocess(torch.zeros(1, 1, 8, 4), logits, default_boxes, PostprocessSettings(candidates_per_class=3))[0]
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    torch.testing.assert_close(found.boxes[:3], box_convert(default_boxes[:3], "cxcywh", "xyxy"))


@pytest.mark.usefixtures("each_way")
def test_thresholds_are_strict() -> None:
    default_boxes = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 1.0]])  # IoU exactly 0.5
    logits = torch.tensor([[0.0, 1.0], [0.0, 0.0]])[None, None]  # the second score is exactly 0.5

    def count(**settings: float) -> int:
        (found,) = postprocess(torch.zeros(1, 1, 2, 4), logits, default_boxes, PostprocessSettings(**settings))
        return len(found.scores)

    assert count(score_threshold=0.4, nms_iou=0.5) == 2
    assert count(score_threshold=0.4, nms_iou=0.49) == 1
    assert count(score_threshold=0.5, nms_iou=0.5) == 1


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.usefixtures("each_way")
def test_a_batch_equals_its_images_one_by_one(members: int) -> None:
    deltas, logits, default_boxes = random_outputs(1, members, images=3, classes=4, boxes=200)
    together = postprocess(deltas, logits, default_boxes, PostprocessSettings())
    for image, ours in enumerate(together):
        one = slice(image, image + 1)
        (alone,) = postprocess(deltas[:, one], logits[:, one], default_boxes, PostprocessSettings())
        assert all(torch.equal(*pair) for pair in zip(ours, alone, strict=True))
        # Nothing of the batch hangs on it
        assert all(column.untyped_storage().nbytes() == column.numel() * column.element_size() for column in ours)
        assert (ours.scores.diff() <= 0).all()
        assert len(ours.scores) > 10


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.usefixtures("each_way")
def test_no_find_is_a_result(members: int) -> None:
    deltas, logits, default_boxes = random_outputs(2, members, images=2, classes=4, boxes=50)
    logits[..., 0] = 100
    for found in postprocess(deltas, logits, default_boxes, PostprocessSettings()):
        assert found.boxes.shape == (0, 4)
        assert found.scores.shape == (0,)
        assert found.labels.shape == (0,)
        assert found.boxes.dtype == found.scores.dtype == torch.float32
        assert found.labels.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("each_way")
def test_half_precision_outputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    deltas, logits, default_boxes = random_outputs(3, members=2, images=1, classes=4, boxes=100)
    deltas, logits = deltas.to(dtype), logits.to(dtype)
    (half,) = postprocess(deltas, logits, default_boxes, PostprocessSettings())
    (full,) = postprocess(deltas.float(), logits.float(), default_boxes, PostprocessSettings())
    assert len(half.scores) > 10
    assert half.boxes.dtype == torch.float32
    assert all(torch.equal(*pair) for pair in zip(half, full, strict=True))


def test_fusion_clips_and_one_member_alone_is_left_as_it_is() -> None:
    corners = torch.tensor([[-0.4, 0.1, 0.5, 5.0], [-3.0, 0.0, -2.0, 1.0]])
    wide = Boxes(corners, torch.tensor([0.8, 0.6]), torch.tensor([2, 1]))
    none = Boxes(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert fuse([[wide]], PostprocessSettings())[0] is wide
    fused, empty = fuse([[wide, none], [none, none]], PostprocessSettings())
    torch.testing.assert_close(fused.boxes, torch.tensor([[0.0, 0.1, 0.5, 1.0]]))
    torch.testing.assert_close(fused.scores, torch.tensor([0.4]))
    assert fused.labels.tolist() == [2]
    assert len(empty.scores) == 0
    (highest, _) = fuse([[wide, none], [none, none]], PostprocessSettings(fusion_conf="max"))
    torch.testing.assert_close(highest.scores, torch.tensor([0.8]))
    assert not len(fuse([[wide], [none]], PostprocessSettings(fusion_skip=0.9))[0].scores)


@pytest.mark.usefixtures("each_way")
def test_outputs_that_do_not_fit_or_are_not_finite_are_errors() -> None:
    deltas, logits, default_boxes = random_outputs(4, members=1, images=1, classes=2, boxes=20)
    with pytest.raises(ValueError, match="expected"):
        postprocess(deltas[:, :, :10], logits, default_boxes, PostprocessSettings())
    with pytest.raises(ValueError, match="expected"):
        postprocess(deltas, logits, default_boxes[:10], PostprocessSettings())
    with pytest.raises(ValueError, match="of at least one member"):
        postprocess(deltas[:0], logits[:0], default_boxes, PostprocessSettings())
    with pytest.raises(UserError, match="is no PostprocessSettings: give"):
        postprocess(deltas, logits, default_boxes, {"nms_iou": 0.5})
    ruled_out = logits.clone()
    ruled_out[0, 0, 3] = -torch.inf  # a row without any probability
    infinite, one_nan = logits.clone(), logits.clone()
    infinite[0, 0, 5, 1], one_nan[0, 0, 7, 0] = torch.inf, torch.nan
    broken_logits = logits * torch.nan, ruled_out, infinite, one_nan
    for broken in ((deltas * torch.nan, logits), *((deltas, broken) for broken in broken_logits)):
        with pytest.raises(UserError, match="not finite"):
            postprocess(*broken, default_boxes, PostprocessSettings())


def test_as_many_scores_above_the_threshold_as_there_can_be() -> None:
    # Float32's sum of so many exponentials comes out too small: more scores are above the threshold than 1 / threshold.
    logits = torch.full((1, 1, 1, 16385), 0.6184).log()
    logits[..., 0] = 0
    settings = PostprocessSettings(6.1042e-5, max_per_member=16384)
    (found,) = postprocess(torch.zeros(1, 1, 1, 4), logits, torch.tensor([[0.5, 0.5, 0.2, 0.2]]), settings)
    assert len(found.scores) == 16384
    assert found.labels.tolist() == list(range(16384))


@pytest.mark.usefixtures("each_way")
def test_huge_sizes_are_limited_as_torchvision_limits_them() -> None:
    deltas, logits = torch.tensor([[[[0.0, 0.0, 1e6, -1e6]]]]), torch.tensor([[[[0.0, 5.0]]]])
    (found,) = postprocess(deltas, logits, torch.tensor([[0.5, 0.5, 0.2, 0.2]]), PostprocessSettings())
    side = 0.2 * 1000 / 16
    torch.testing.assert_close(found.boxes, torch.tensor([[0.5 - side / 2, 0.5, 0.5 + side / 2, 0.5]]))


def test_boxes_far_outside_the_image_do_not_meet_those_of_other_classes() -> None:
    """batched_nms would let them: its offsets assume that no coordinate is negative."""
    default_boxes, settings = torch.tensor([[0.5, 0.5, 1, 1]]), PostprocessSettings()
    deltas, logits = torch.tensor([[[-95.0, -95, 15, 15]]]), torch.tensor([[[0.0, 3, 3]]])
    for way in (best_boxes_torch, best_boxes_compiled):
        (found,) = way(deltas, logits, default_boxes, settings, 10)
        assert found.labels.tolist() == [0, 1]
