"""SSD: extra layers and heads behind the members' first feature maps (Liu et al. 2016; paper, Sec. V, Fig. 7)."""

from functools import lru_cache

import torch
from torch import Tensor, nn

from detection.default_boxes import create_default_boxes
from detection.heads import SSD300_BOXES, SSD512_BOXES, BoxPlan, Input
from detection.models import box_coder
from detection.models.head import DividedDetector, LossOptions, create_detector
from detection.models.matcher import Matcher
from detection.models.multibox_loss import multibox_loss

_default_boxes = lru_cache(create_default_boxes)  # training at several sizes asks again and again
_CHANNELS = 1024  # of the paper's backbones
# Inner and output channels of the extra blocks behind a backbone of that many channels; SSD300 has five, SSD512 six
_EXTRA_CHANNELS = ((256, 512), (256, 512), (128, 256), (128, 256), (128, 256), (128, 256))
_ADAPTED_CHANNELS = 128  # of each level that members make themselves


class Multibox(DividedDetector):
    """Heads of SSD's kind: a level's cells have default boxes, which its ``loc`` moves and its ``conf`` classifies.

    Subclasses make ``extras``, ``loc`` and ``conf``, for as many levels as their ``plan`` has. Box deltas are ``[S, N,
    A, 4]`` and class logits ``[S, N, A, num_classes + 1]``, in the order of ``create_default_boxes``.
    """

    plan: BoxPlan

    def __init__(self, members: nn.ModuleList, num_classes: int, input: Input | None = None) -> None:
        super().__init__(members, num_classes, input)
        self._matcher: Matcher | None = None
        with torch.device("cpu"):  # also where the weights are not allocated
            self.default_boxes = create_default_boxes(self.plan, self.input.size)

    def place(self) -> None:
        self.default_boxes = _default_boxes(self.plan, self.input.size).to(self.default_boxes.device)
        self._matcher = None

    def forward_head(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        levels = list(levels)
        for extra in self.extras:
            levels.append(extra(levels[-1]))
        deltas = [_per_box(head(level), 4) for head, level in zip(self.loc, levels, strict=True)]
        logits = [_per_box(head(level), self.num_classes + 1) for head, level in zip(self.conf, levels, strict=True)]
        return torch.cat(deltas, dim=1), torch.cat(logits, dim=1)

    def loss(
        self, regressions: Tensor, logits: Tensor, boxes: Tensor, labels: Tensor, options: LossOptions
    ) -> dict[str, Tensor]:
        """The multibox loss at default boxes that ``Matcher`` has matched to the ground truth."""
        if self._matcher is None or self._matcher.corners.device != boxes.device:
            self._matcher = Matcher(self.default_boxes)
        how = (options.neg_to_pos_ratio, options.cot_weight, options.class_weights)
        return multibox_loss(regressions, logits, *self._matcher(boxes, labels), *how)

    def decode(self, regressions: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        return box_coder.decode(regressions, self.default_boxes), logits.float().softmax(-1)[..., 1:]


class SSD(Multibox):
    """SSD300, at any input size: 8,732 default boxes at 300 pixels.

    Members of one level give the first feature map, and extra blocks make the others. Members of several levels give as
    many maps, of layers that may be pretrained; extra blocks make the rest. If members differ in channels, or make
    several levels, each gets adapters: what the shared layers see has the same number of channels and the same scale.
    """

    plan = SSD300_BOXES

    def adapted_channels(self, own: list[list[int]]) -> list[int] | None:
        levels = len(own[0])
        return [_ADAPTED_CHANNELS] * levels if levels > 1 else super().adapted_channels(own)

    def build(self, channels: list[int]) -> None:
        channels, levels = list(channels), len(channels)
        self.extras = nn.ModuleList()
        # Paper: the third level has half the first one's channels
        width = channels[0] if levels == 1 else 2 * channels[-1]
        count, per_cell = len(self.plan.ratios), self.plan.boxes_per_cell
        for level, (inner, outer) in list(enumerate(_EXTRA_CHANNELS[: count - 1], 1))[levels - 1 :]:
            scaled = [_scale(c, width) for c in (inner, outer)]
            self.extras.append(_extra_block(channels[-1], *scaled, strided=level < count - self.plan.unpadded))
            channels.append(scaled[1])
        heads = list(zip(channels, per_cell, strict=True))
        self.loc = nn.ModuleList(nn.Conv2d(c, 4 * a, 3, padding=1) for c, a in heads)
        self.conf = nn.ModuleList(nn.Conv2d(c, (self.num_classes + 1) * a, 3, padding=1) for c, a in heads)
        for layer in self.extras.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
        for head in (*self.loc, *self.conf):
            if channels[0] >= _CHANNELS:
                nn.init.xavier_uniform_(head.weight)
            else:  # behind few channels the loss would start at several times its value with Xavier
                nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)


class SSD512(SSD):
    """SSD512, at any input size: seven levels, each half as large as the one before; 24,564 default boxes at 512."""

    plan = SSD512_BOXES


def create_ssd(backbone: str, members: int = 1, num_classes: int = 80, pretrained: bool = False) -> SSD:
    """Creates SSD300 on a divided backbone, with fresh weights.

    Args:
        backbone: a name of ``classification.backbones.registry``; ``timm:<model>``, of which the members are undivided
            copies; or ``timm:<model>,<model>,…``, one for each member.
        members: S, the number of networks that the backbone is divided into.
        num_classes: foreground classes.
        pretrained: start timm's backbones from the weights that timm downloads.

    Raises:
        UserError: if the backbone is unknown or cannot be divided into S, or the weights cannot be downloaded.

    Example:
        >>> import torch
        >>> from detection import create_ssd
        >>> ssd = create_ssd("resnet10_16", members=2, num_classes=3)
        >>> deltas, logits = ssd(torch.zeros(1, 3, 300, 300))
        >>> deltas.shape, logits.shape
        (torch.Size([2, 1, 8732, 4]), torch.Size([2, 1, 8732, 4]))
    """
    return create_detector("ssd300", backbone, members, num_classes, pretrained=pretrained)


def _scale(width: int, channels: int) -> int:
    # The paper's widths behind 1024 channels; behind a smaller backbone the shared layers shrink with it.
    return width if channels >= _CHANNELS else max(32, -(-width * channels // _CHANNELS // 8) * 8)


def _extra_block(channels: int, inner: int, outer: int, strided: bool) -> nn.Sequential:
    size = {"stride": 2, "padding": 1} if strided else {}
    return nn.Sequential(
        nn.Conv2d(channels, inner, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(inplace=True),
        nn.Conv2d(inner, outer, 3, bias=False, **size),
        nn.BatchNorm2d(outer),
        nn.ReLU(inplace=True),
    )


def _per_box(output: Tensor, values: int) -> Tensor:
    # A head's channels are (value, box shape), value outermost, as in the released checkpoints.
    return output.unflatten(1, (values, -1)).permute(0, 2, 3, 4, 1).flatten(1, 3)
