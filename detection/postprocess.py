"""From raw network outputs to boxes: per-member non-maximum suppression, then fusion over the members."""

import math
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detection.fusion import fuse_images
from detection.models.box_coder import CENTRE_VARIANCE, MAX_LOG_SCALE, SIZE_VARIANCE, decode
from detection.settings import PostprocessSettings
from divdet.engine.errors import UserError

# What another thread is worth its cost for: 0.3 ms of fusing or suppressing, 0.6 of scanning; to begin takes it 0.1.
_A_THREADS_BOXES, _A_THREADS_LOGITS = 2000, 2_000_000


_Results = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]
_Work = tuple[Callable[[int, int], bool], int]  # (first, end) of pictures -> finite; more threads it is worth


class Boxes(NamedTuple):
    """The boxes found on one image, on the CPU, by falling score."""

    boxes: Tensor  # [n, 4] float32 (x1, y1, x2, y2) as fractions of the image
    scores: Tensor  # [n] float32
    labels: Tensor  # [n] int64, 0-based: background is not counted


def postprocess(deltas: Tensor, logits: Tensor, default_boxes: Tensor, settings: PostprocessSettings) -> list[Boxes]:
    """Return the final boxes of each image: ``fuse(member_boxes(...))``, see both.

    With one member the boxes may overshoot the image, as those of the released decoder do: clip them where they become
    pixels. With several, fusion clips them to [0, 1].
    """
    return fuse(member_boxes(deltas, logits, default_boxes, settings), settings)


def fuse(members: list[list[Boxes]], settings: PostprocessSettings) -> list[Boxes]:
    """Fuse the members' boxes of each image by weighted boxes fusion; ``members`` is indexed [member][image].

    A single member's boxes are returned as they are: fusing them would change their scores, since it also averages
    what one member's suppression left overlapping. Otherwise boxes are clipped to the image first, and those without
    area inside it are dropped.
    """
    if len(members) == 1:
        return members[0]
    images = list(zip(*members, strict=True))
    if not images:
        return []
    boxes, scores, labels = (torch.cat(column) for column in zip(*chain(*images), strict=True))
    counts = np.array([[len(found.scores) for found in image] for image in images])
    *fused, numbers = fuse_images(
        boxes.clamp(0, 1).double().numpy(),
        scores.double().numpy(),
        labels.numpy(),
        counts,
        weights=np.ones(len(members)),
        thresholds=np.full(len(members), np.float32(settings.fusion_skip), np.float64),  # the scores' own precision
        iou_thr=settings.fusion_iou,
        conf_type=settings.fusion_conf,
        threads=min(torch.get_num_threads(), 1 + len(scores) // _A_THREADS_BOXES),
    )
    boxes, scores, labels = (torch.from_numpy(column) for column in fused)
    starts = (counts.sum(1).cumsum() - counts.sum(1)).tolist()
    return [
        _image(boxes[start : start + number], scores[start : start + number], labels[start : start + number])
        for start, number in zip(starts, numbers.tolist(), strict=True)
    ]


def _image(boxes: Tensor, scores: Tensor, labels: Tensor) -> Boxes:
    """Copies, since parts of a batch's tensors would keep, and take with them to another process, the whole."""
    return Boxes(boxes.to(torch.float32, copy=True), scores.to(torch.float32, copy=True), labels.clone())


@torch.no_grad()
def member_boxes(
    deltas: Tensor, logits: Tensor, default_boxes: Tensor, settings: PostprocessSettings
) -> list[list[Boxes]]:
    """Return each member's boxes on each image, as lists indexed [member][image].

    deltas [S, N, A, 4] and logits [S, N, A, C + 1] (background first) are raw network outputs of any floating dtype, on
    any device; default_boxes [A, 4] (cx, cy, w, h). None is changed. Computation is in float32. Boxes are not clipped.

    Per member, image and class: scores strictly above the threshold, the best ``candidates_per_class`` of them,
    suppression; then the best ``max_per_member`` of all classes. Equal scores come by class, then by default box.

    Raises ValueError for shapes that do not fit, UserError where a logit is NaN or +inf or a found box is not finite.
    """
    if deltas.shape != (*logits.shape[:3], 4) or default_boxes.shape != deltas.shape[2:]:
        raise ValueError(
            f"deltas {tuple(deltas.shape)}, logits {tuple(logits.shape)}, default boxes {tuple(default_boxes.shape)}: "
            "expected [S, N, A, 4], [S, N, A, classes + 1], [A, 4]"
        )
    from detection.kernels import compiled as _compiled  # here, because numba takes long to import

    num_members, num_images, num_boxes, num_scores = logits.shape
    pictures = num_members * num_images  # a picture per member
    most = (num_scores - 1) * min(num_boxes, settings.candidates_per_class)
    limit = min(settings.max_per_member or 200 * num_members, most)
    boxes, scores = np.empty((pictures, limit, 4), np.float32), np.empty((pictures, limit), np.float32)
    results = boxes, scores, np.empty((pictures, limit), np.int64), np.empty(pictures, np.int64)
    prepare = _work_on_cpu if logits.device.type == "cpu" else _work_on_device
    work, more_threads = prepare(
        deltas.detach().flatten(0, 2),
        logits.detach().flatten(0, 2).to(torch.float32),
        default_boxes.to(logits.device, torch.float32),
        settings,
        results,
    )
    if not all(_compiled.in_threads(work, pictures, min(torch.get_num_threads(), 1 + more_threads))):
        raise UserError("the network's outputs are not finite: train with a lower rate, or use another checkpoint")
    columns, counts = [torch.from_numpy(column) for column in results[:3]], results[3].tolist()
    found = [_image(*(column[p, :count] for column in columns)) for p, count in enumerate(counts)]
    return [found[member * num_images : (member + 1) * num_images] for member in range(num_members)]


def _work_on_cpu(
    deltas: Tensor, logits: Tensor, default_boxes: Tensor, settings: PostprocessSettings, results: _Results
) -> _Work:
    """All of it, compiled; deltas [S * N * A, 4] of any dtype, logits [S * N * A, C + 1] float32.

    Not by PyTorch's operations: those share work of a millisecond out to all cores, and wait for ten where another
    program has one.
    """
    from detection.kernels import nms as _postprocess_kernel

    threshold = settings.score_threshold
    offset = math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else math.copysign(math.inf, threshold - 0.5)
    work = partial(
        _postprocess_kernel.best_of_outputs,
        deltas.to(torch.float32).contiguous().numpy(),
        logits.contiguous().numpy(),
        default_boxes.contiguous().numpy(),
        (np.float32(CENTRE_VARIANCE), np.float32(SIZE_VARIANCE), np.float32(MAX_LOG_SCALE)),
        np.float32(threshold),
        np.float32(offset),
        settings.candidates_per_class,
        settings.nms_iou,
        results,
    )
    return work, logits.numel() // _A_THREADS_LOGITS


def _work_on_device(
    deltas: Tensor,
    logits: Tensor,
    default_boxes: Tensor,
    settings: PostprocessSettings,
    results: _Results,
    bound: int | None = None,
) -> _Work:
    """The same: of each class and picture the best ``candidates_per_class`` come to the CPU, in one transfer.

    ``bound``: how many scores above the threshold there is room for; default: 4096 a picture. Where there are more, a
    second pass has room for all.
    """
    from detection.kernels import nms as _postprocess_kernel

    pictures = len(results[-1])
    bound = pictures * 4096 if bound is None else bound
    packed = _pack(deltas, logits, default_boxes, settings, bound).cpu()
    total, number, finite = packed[0, :3].tolist()
    if total > bound:
        return _work_on_device(deltas, logits, default_boxes, settings, results, total)
    if not finite:
        return lambda first, end: False, 0
    rows, labels, floats = packed[1 : 1 + number].split((1, 1, 5), dim=1)
    scores, boxes = floats.contiguous().view(torch.float32).split((1, 4), dim=1)
    first_rows = torch.arange(pictures + 1, dtype=torch.int32) * len(default_boxes)
    starts = torch.searchsorted(rows[:, 0].contiguous(), first_rows)
    work = partial(
        _postprocess_kernel.best_of_selected,
        starts.numpy(),
        labels[:, 0].long().numpy(),
        scores[:, 0].contiguous().numpy(),
        boxes.contiguous().numpy(),
        logits.shape[1] - 1,
        settings.candidates_per_class,
        settings.nms_iou,
        results,
    )
    return work, number // _A_THREADS_BOXES


def _pack(deltas: Tensor, logits: Tensor, default_boxes: Tensor, settings: PostprocessSettings, bound: int) -> Tensor:
    """What ``_work_on_device`` transfers: int32 [1 + n, 7], of fixed shape, so that nothing waits for the device.

    The first line: how many scores are above the threshold, how many lines follow that count, whether all is finite.
    A line: row, label, and the bits of score and box.
    """
    num_boxes, num_classes = len(default_boxes), logits.shape[1] - 1
    num_groups = len(logits) // num_boxes * num_classes  # a group is one class in one picture
    probabilities = logits.softmax(dim=-1)
    above = probabilities > settings.score_threshold
    above[:, 0] = False
    found = above.flatten().nonzero_static(size=bound, fill_value=-1)[:, 0]
    filled, found = found >= 0, found.clamp(min=0)
    rows, labels = found // (num_classes + 1), found % (num_classes + 1) - 1
    scores = probabilities.flatten()[found]

    groups = torch.where(filled, rows // num_boxes * num_classes + labels, num_groups)
    order = scores.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]  # by group, then falling score, then row
    groups = groups[order]
    ranks = torch.arange(bound, device=groups.device) - torch.searchsorted(groups, groups)
    kept = torch.zeros_like(filled)
    kept[order] = filled[order] & (ranks < settings.candidates_per_class)
    number = kept.sum()
    most = min(bound, num_groups * settings.candidates_per_class)
    kept = kept.nonzero_static(size=most, fill_value=0)[:, 0]  # by row again
    rows, labels, scores = rows[kept], labels[kept], scores[kept]
    boxes = decode(deltas[rows], default_boxes[rows % num_boxes])

    unused = torch.arange(most, device=rows.device) >= number
    finite = probabilities[:, 0].isfinite().all() & (boxes.isfinite().all(dim=1) | unused).all()
    head = torch.stack((above.sum().clamp(max=2**31 - 1), number, finite.long())).int()
    floats = torch.cat((scores[:, None], boxes), dim=1).view(torch.int32)
    lines = torch.cat((rows[:, None].int(), labels[:, None].int(), floats), dim=1)
    return torch.cat((torch.nn.functional.pad(head, (0, 4))[None], lines))
