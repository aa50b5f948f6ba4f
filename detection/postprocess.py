"""From raw network outputs to boxes: per-member non-maximum suppression, then fusion over the members."""

from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from detection.box_coding import decode
from detection.fusion import ConfType, weighted_boxes_fusion
from engine.errors import UserError


@dataclass
class PostprocessSettings:
    """Every threshold between the network's outputs and the final boxes.

    The defaults are those of the paper's released code. torchvision's SSD300 uses score_threshold 0.01,
    candidates_per_class 400 (it takes the best per class before suppression as well), nms_iou 0.45, max_per_member 200,
    and no fusion. Results are comparable only under equal settings.

    Args:
        score_threshold: a class score (softmax over classes and background) must be strictly higher; 0 to 1.
        candidates_per_class: best-scoring boxes of each class and image that enter suppression; at least 1.
        nms_iou: a box goes if its IoU with a better one of its class is strictly above this; 0 to 1.
        max_per_member: best boxes that each member keeps per image; null means 200 times the number of members.
        fusion_iou: IoU above which boxes of several members are fused; 0 to 1.
        fusion_skip: boxes of lower score are left out of the fusion; 0 to 1.
        fusion_conf: how fused scores are computed, see detection.fusion.
    """

    score_threshold: float = 0.05
    candidates_per_class: int = 200
    nms_iou: float = 0.5
    max_per_member: int | None = None
    fusion_iou: float = 0.5
    fusion_skip: float = 1e-4
    fusion_conf: ConfType = "avg"

    def __post_init__(self) -> None:
        for name in ("score_threshold", "nms_iou", "fusion_iou", "fusion_skip"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"postprocess.{name} is {getattr(self, name)}: choose a value from 0 to 1")
        for name in ("candidates_per_class", "max_per_member"):
            if not isinstance(getattr(self, name), int | None):
                raise UserError(f"postprocess.{name} is {getattr(self, name)!r}: choose a whole number")
        if self.candidates_per_class < 1:
            raise UserError(f"postprocess.candidates_per_class is {self.candidates_per_class}: choose at least 1")
        if self.max_per_member is not None and self.max_per_member < 1:
            raise UserError(f"postprocess.max_per_member is {self.max_per_member}: choose at least 1, or null")
        if self.fusion_conf not in get_args(ConfType):
            raise UserError(
                f"postprocess.fusion_conf is {self.fusion_conf!r}: choose one of {', '.join(get_args(ConfType))}"
            )


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
    return [_fuse_image(image, settings) for image in zip(*members, strict=True)]


def _fuse_image(image: tuple[Boxes, ...], settings: PostprocessSettings) -> Boxes:
    boxes, scores, labels = weighted_boxes_fusion(
        [found.boxes.clamp(0, 1).numpy() for found in image],
        [found.scores.numpy() for found in image],
        [found.labels.numpy() for found in image],
        iou_thr=settings.fusion_iou,
        skip_box_thr=settings.fusion_skip,
        conf_type=settings.fusion_conf,
    )
    return Boxes(torch.from_numpy(boxes).float(), torch.from_numpy(scores).float(), torch.from_numpy(labels))


@torch.no_grad()
def member_boxes(
    deltas: Tensor, logits: Tensor, default_boxes: Tensor, settings: PostprocessSettings
) -> list[list[Boxes]]:
    """Return each member's boxes on each image, as lists indexed [member][image].

    deltas [S, N, A, 4] and logits [S, N, A, C + 1] (background first) are raw network outputs of any floating dtype, on
    any device; default_boxes [A, 4] (cx, cy, w, h). None is changed. Computation is in float32. Boxes are not clipped.

    Per member, image and class: scores strictly above the threshold, the best ``candidates_per_class`` of them (among
    equal scores the first default box), suppression; then the best ``max_per_member`` of all classes.

    Raises ValueError for shapes that do not fit, UserError for outputs that are not finite.
    """
    if deltas.shape != (*logits.shape[:3], 4) or default_boxes.shape != deltas.shape[2:]:
        raise ValueError(
            f"deltas {tuple(deltas.shape)}, logits {tuple(logits.shape)}, default boxes {tuple(default_boxes.shape)}: "
            "expected [S, N, A, 4], [S, N, A, classes + 1], [A, 4]"
        )
    num_members, num_images = logits.shape[:2]
    num_classes = logits.shape[3] - 1
    probabilities = logits.flatten(0, 1).float().softmax(dim=-1)
    scores = probabilities[..., 1:]
    pictures, rows, labels = (scores > settings.score_threshold).nonzero(as_tuple=True)  # a picture per member
    scores = scores[pictures, rows, labels]

    # A group is one class in one picture: groups ascending, scores descending within each, first default box first.
    groups = pictures * num_classes + labels
    order = _by_group_and_score(groups, scores)
    order = order[_rank(groups[order]) < settings.candidates_per_class]
    pictures, rows, groups, scores = pictures[order], rows[order], groups[order], scores[order]
    boxes = decode(deltas.flatten(0, 1)[pictures, rows].float(), default_boxes.to(deltas.device, torch.float32)[rows])

    # From here on little is left, and the loop of suppression suits the CPU.
    finite = (boxes.isfinite().all() & probabilities[..., 0].isfinite().all()).cpu()
    boxes, scores, groups = boxes.cpu(), scores.cpu(), groups.cpu()
    if not finite:
        raise UserError("the network's outputs are not finite: train with a lower rate, or use another checkpoint")
    keep = _suppress(boxes, groups, settings.nms_iou)
    boxes, scores, groups = boxes[keep], scores[keep], groups[keep]

    pictures = groups // num_classes
    limit = settings.max_per_member or 200 * num_members
    order = _by_group_and_score(pictures, scores)
    order = order[_rank(pictures[order]) < limit]
    counts = pictures[order].bincount(minlength=num_members * num_images).tolist()
    columns = (column[order].split(counts) for column in (boxes, scores, groups % num_classes))
    found = [Boxes(*image) for image in zip(*columns, strict=True)]
    return [found[member * num_images : (member + 1) * num_images] for member in range(num_members)]


def _by_group_and_score(groups: Tensor, scores: Tensor) -> Tensor:
    """Row order by ascending group, then falling score, then position. Both [n] -> [n]."""
    order = scores.argsort(descending=True, stable=True)
    return order[groups[order].argsort(stable=True)]


def _rank(groups: Tensor) -> Tensor:
    """Position of each row within its group, for sorted groups [n] -> [n]."""
    return torch.arange(len(groups), device=groups.device) - torch.searchsorted(groups, groups)


def _suppress(boxes: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression within each group; boxes [n, 4] as ``_by_group_and_score`` orders them -> [n] bool.

    torchvision's ``batched_nms`` either loops over the groups in Python or shifts boxes apart, which costs float32
    digits when there are as many groups as a batch has images times classes.
    """
    from detection._nms_kernel import suppress  # here, because numba takes long to import

    starts = torch.cat((torch.zeros(1, dtype=torch.int64), groups.unique_consecutive(return_counts=True)[1].cumsum(0)))
    return torch.from_numpy(suppress(boxes.numpy(), starts.numpy(), iou_threshold))
