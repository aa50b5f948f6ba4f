"""From raw network outputs to boxes: non-maximum suppression per member, then fusion of the members."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from detection.boxes import Boxes, ClassRules
from detection.fusion import fuse_by_method
from detection.models.box_coder import CENTER_VARIANCE, MAX_LOG_SCALE, SIZE_VARIANCE, decode
from detection.prediction_settings import PostprocessSettings as PostprocessSettings  # a name of this module, too
from divdet.engine.errors import UserError

if TYPE_CHECKING:
    from detection.models.head import DividedDetector

# Starting a thread costs 0.1 ms. Fusing so many boxes takes 0.3 ms, scanning so many logits 0.6 ms.
BOXES_PER_THREAD, LOGITS_PER_THREAD = 2000, 2_000_000


def postprocess(deltas: Tensor, logits: Tensor, default_boxes: Tensor, settings: PostprocessSettings) -> list[Boxes]:
    """Return the final boxes of each image: ``fuse(member_boxes(...))``, see both.

    With one member, boxes may extend beyond the image, as those of the released decoder do. With several, fusion clips
    them to [0, 1].

    Raises:
        ValueError: for settings that name classes, which only a ``Detector`` knows; and as ``member_boxes``.
    """
    if not isinstance(settings, PostprocessSettings):
        raise UserError(f"{settings!r} is no PostprocessSettings: give PostprocessSettings(…)")
    if settings.classes is not None or settings.class_thresholds:
        raise ValueError("classes and class_thresholds name classes: use them with a Detector")
    rules = ClassRules.of(settings, (), ())
    return [rules.apply(found) for found in fuse(member_boxes(deltas, logits, default_boxes, settings), settings)]


def fuse(members: list[list[Boxes]], settings: PostprocessSettings) -> list[Boxes]:
    """Fuse the members' boxes of each image.

    Boxes are clipped to the image first; those without area inside it are dropped. A single member's boxes are returned
    unchanged: fusing them would average boxes of one member that overlap, and so change their scores.

    Args:
        members: boxes indexed [member][image].
        settings: ``member_weights`` and those that begin with ``fusion_``.

    Raises:
        UserError: if ``member_weights`` are not one for each member.
    """
    weights = settings.member_weights
    if weights is not None and len(weights) != len(members):
        raise UserError(f"postprocess.member_weights has {len(weights)} weights for {len(members)} members")
    if len(members) == 1:
        return members[0]
    images = list(zip(*members, strict=True))
    if not images:
        return []
    columns = (torch.cat(column).numpy() for column in zip(*chain(*images), strict=True))
    counts = np.array([[len(found.scores) for found in image] for image in images])
    return [Boxes(*map(torch.from_numpy, own)) for own in fuse_columns(*columns, counts, settings)]


def fuse_columns(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, counts: np.ndarray, settings: PostprocessSettings
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Fuse the boxes of several members as ``fuse`` does; return boxes, scores and labels of each image.

    Boxes [n, 4] and scores [n] are float32. They go by image, then by member: ``counts`` [N, S] of each.
    """
    fused = fuse_by_method(
        boxes.clip(0, 1).astype(np.float64),
        scores.astype(np.float64),
        labels,
        counts,
        method=settings.fusion_method,
        weights=settings.member_weights,
        iou_thr=settings.fusion_iou,
        skip_box_thr=float(np.float32(settings.fusion_skip)),  # in the scores' precision
        conf_type=settings.fusion_conf,
        threads=min(torch.get_num_threads(), 1 + len(scores) // BOXES_PER_THREAD),
    )
    return [(boxes.astype(np.float32), scores.astype(np.float32), labels) for boxes, scores, labels in fused]


@torch.no_grad()
def head_boxes(
    model: DividedDetector, regressions: Tensor, logits: Tensor, settings: PostprocessSettings
) -> list[list[Boxes]]:
    """Find each member's boxes on each image, as ``member_boxes`` does, from the raw outputs of any head.

    Args:
        model: what made the outputs, or its equal.
        regressions: [S, N, A, R], of any floating dtype, on any device.
        logits: [S, N, A, background + C], likewise.

    Raises:
        UserError: as ``member_boxes``.
    """
    if model.default_boxes is not None:
        return member_boxes(regressions, logits, model.default_boxes, settings)
    boxes, scores = (part.flatten(0, 1).float() for part in model.decode(regressions, logits))
    limit = settings.max_per_member or 200 * len(logits)
    return _by_member(_best(scores, lambda pictures, rows: boxes[pictures, rows], settings, limit), len(logits))


@torch.no_grad()
def member_boxes(
    deltas: Tensor, logits: Tensor, default_boxes: Tensor, settings: PostprocessSettings
) -> list[list[Boxes]]:
    """Find each member's boxes on each image.

    For each member, image and class: take the scores strictly above the threshold, of these the best
    ``candidates_per_class``, and apply NMS. Then take the best ``max_per_member`` over all classes. Equal scores are
    ordered by class, then by default box. Computed in float32; boxes are not clipped.

    Args:
        deltas: [S, N, A, 4], raw outputs of any floating dtype, on any device.
        logits: [S, N, A, C + 1], likewise; background comes first.
        default_boxes: [A, 4] (cx, cy, w, h).

    Returns:
        Boxes indexed [member][image].

    Raises:
        ValueError: if the shapes do not fit.
        UserError: if a logit is NaN or +inf, or a box above the threshold is not finite.
    """
    if not len(logits) or deltas.shape != (*logits.shape[:3], 4) or default_boxes.shape != deltas.shape[2:]:
        raise ValueError(
            f"deltas {tuple(deltas.shape)}, logits {tuple(logits.shape)}, default boxes {tuple(default_boxes.shape)}: "
            "expected [S, N, A, 4], [S, N, A, classes + 1], [A, 4] of at least one member"
        )
    best_boxes = best_boxes_compiled if logits.device.type == "cpu" else best_boxes_torch
    found = best_boxes(
        deltas.flatten(0, 1).float(),
        logits.flatten(0, 1).float(),
        default_boxes.to(logits.device, torch.float32),
        settings,
        settings.max_per_member or 200 * len(logits),
    )
    return _by_member(found, len(logits))


def _by_member(found: list[Boxes] | None, num_members: int) -> list[list[Boxes]]:
    if found is None:
        raise UserError("the network's outputs are not finite: train with a lower rate, or use another checkpoint")
    num_images = len(found) // num_members
    return [found[member * num_images : (member + 1) * num_images] for member in range(num_members)]


def best_boxes_torch(
    deltas: Tensor, logits: Tensor, default_boxes: Tensor, settings: PostprocessSettings, limit: int
) -> list[Boxes] | None:
    """Find the boxes of P pictures (images of members): for devices other than the CPU, and as a reference for tests.

    Takes deltas [P, A, 4], logits [P, A, C + 1] and default_boxes [A, 4] (cx, cy, w, h) in float32, and the number of
    boxes to keep of each picture. Returns P results; None if the outputs are not finite.
    """

    def boxes_at(pictures: Tensor, rows: Tensor) -> Tensor:
        return decode(deltas[pictures, rows], default_boxes[rows])

    return _best(logits.softmax(dim=-1)[..., 1:], boxes_at, settings, limit)


def _best(
    scores: Tensor, boxes_at: Callable[[Tensor, Tensor], Tensor], settings: PostprocessSettings, limit: int
) -> list[Boxes] | None:
    """The same of scores [P, A, C] and of a function that gives the boxes [k, 4] of k pictures and rows."""
    from torchvision.ops import batched_nms  # imported here, because torchvision takes long to import

    num_pictures = len(scores)
    pictures, labels, rows = (scores > settings.score_threshold).transpose(1, 2).nonzero(as_tuple=True)
    finite = scores.isfinite().all()
    scores, groups = scores[pictures, rows, labels], pictures * scores.shape[2] + labels

    order = scores.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]  # by picture and class, then falling score
    ranks = torch.arange(len(order), device=order.device) - torch.searchsorted(groups[order], groups[order])
    order = order[ranks < settings.candidates_per_class]
    pictures, rows, labels, scores, groups = (part[order] for part in (pictures, rows, labels, scores, groups))
    boxes = boxes_at(pictures, rows)
    if not finite or not boxes.isfinite().all():
        return None
    # batched_nms offsets each group's boxes by the largest coordinate, so none may be negative. In float32 the offsets
    # round them, which changed 2 of 300 random images.
    positive = boxes.double() - boxes.double().min() if len(boxes) else boxes
    kept = batched_nms(positive, scores.double(), groups, settings.nms_iou).sort().values
    kept = kept[scores[kept].argsort(descending=True, stable=True)]
    kept = kept[pictures[kept].argsort(stable=True)]  # by picture, then falling score, class and default box
    counts = pictures[kept].bincount(minlength=num_pictures).tolist()
    columns = [column[kept].cpu().split(counts) for column in (boxes, scores, labels)]
    return [Boxes(*(column[:limit].clone() for column in own)) for own in zip(*columns, strict=True)]


def best_boxes_compiled(
    deltas: Tensor, logits: Tensor, default_boxes: Tensor, settings: PostprocessSettings, limit: int
) -> list[Boxes] | None:
    """The compiled equivalent of ``best_boxes_torch`` for the CPU, 30 times as fast."""
    from detection.kernels import compiled, nms  # imported here, because numba takes long to import

    num_pictures, num_boxes, num_scores = logits.shape
    threshold = settings.score_threshold
    offset = math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else math.copysign(math.inf, threshold - 0.5)
    limit = min(limit, (num_scores - 1) * min(num_boxes, settings.candidates_per_class))
    shape = (num_pictures, limit)
    columns = np.empty((*shape, 4), np.float32), np.empty(shape, np.float32), np.empty(shape, np.int64)
    counts = np.empty(num_pictures, np.int64)
    inputs = (
        *(column.detach().contiguous().numpy() for column in (deltas, logits, default_boxes)),
        (np.float32(CENTER_VARIANCE), np.float32(SIZE_VARIANCE), np.float32(MAX_LOG_SCALE)),
        np.float32(threshold),
        np.float32(offset),
        settings.candidates_per_class,
        settings.nms_iou,
    )

    def work(first: int, end: int) -> None:
        nms.best_boxes(first, end, *inputs, *columns, counts)

    compiled.in_threads(work, num_pictures, min(torch.get_num_threads(), 1 + logits.numel() // LOGITS_PER_THREAD))
    if counts.min(initial=0) < 0:
        return None
    return [
        Boxes(*(torch.from_numpy(column[picture, :count].copy()) for column in columns))
        for picture, count in enumerate(counts.tolist())
    ]
