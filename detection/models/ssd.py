"""SSD300 on S backbones: each member has its own, and all share the extra layers and heads (paper, Sec. V, Fig. 7)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from classification.backbones.registry import create_feature_extractors
from detection.default_boxes import BOXES_PER_CELL
from divdet.engine.members import present

_CHANNELS = 1024  # of the paper's backbones
# Inner and output channels of the five extra blocks behind a backbone of that many channels
_EXTRA_CHANNELS = ((256, 512), (256, 512), (128, 256), (128, 256), (128, 256))
_ADAPTED_CHANNELS = 128  # of each level that members make themselves


class SSD(nn.Module):
    """S backbones under shared extra layers and heads.

    The members' feature maps are concatenated along the batch for the shared layers, which run once. In training their
    batch norms therefore take their statistics over all members and update the running ones once a step: training
    normalizes as evaluation does, by one set of statistics. The released code runs the shared layers member by member,
    so that in training each member is normalized by its own statistics. In evaluation both compute the same. The
    gradient of a shared weight is the sum over the members' losses, as in the released code.

    Attributes:
        concurrent: in evaluation mode, runs ``branches()`` at the same time (see ``divdet.engine.concurrency``).

    Members of one level give the first feature map, and extra blocks make the other five. Members of several levels
    give as many maps, of layers that may be pretrained; extra blocks make the rest.

    Args:
        members: S backbones, ``[N, 3, 300, 300] -> [N, C, 38, 38]`` with ``out_channels`` (C is the last), or ``-> [N,
            C, 38, 38], [N, C, 19, 19], ...`` with ``level_channels``. If they differ in C, or make several levels, each
            member gets an adapter at each level, a 1x1 convolution with batch norm and ReLU: what the shared layers
            see has the same number of channels and the same scale.
        num_classes: foreground classes; class logits have background in addition, at index 0.
    """

    def __init__(self, members: nn.ModuleList, num_classes: int) -> None:
        super().__init__()
        self.members = members
        self.num_classes = num_classes
        self.concurrent: Callable[[Sequence[Tensor]], Any] | None = None
        own = [_level_channels(member) for member in members]
        levels = len(own[0])
        channels = [_ADAPTED_CHANNELS] * levels if levels > 1 else [max(own)[0]]
        adapted = levels > 1 or len(set(map(tuple, own))) > 1
        self.adapters = nn.ModuleList(_Adapter(c, channels) for c in own) if adapted else None
        self.extras = nn.ModuleList()
        # Paper: the third level has half the first one's channels
        width = channels[0] if levels == 1 else 2 * channels[-1]
        for level, (inner, outer) in list(enumerate(_EXTRA_CHANNELS))[levels - 1 :]:
            scaled = [_scale(c, width) for c in (inner, outer)]
            self.extras.append(_extra_block(channels[-1], *scaled, strided=level < 3))
            channels.append(scaled[1])
        levels = list(zip(channels, BOXES_PER_CELL, strict=True))
        self.loc = nn.ModuleList(nn.Conv2d(c, 4 * a, 3, padding=1) for c, a in levels)
        self.conf = nn.ModuleList(nn.Conv2d(c, (num_classes + 1) * a, 3, padding=1) for c, a in levels)
        for layer in self.extras.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
        for head in (*self.loc, *self.conf):
            if channels[0] >= _CHANNELS:
                nn.init.xavier_uniform_(head.weight)
            else:  # behind few channels the loss would start at several times its value with Xavier
                nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Computes every member's raw head outputs.

        Args:
            images: normalized; ``[N, 3, 300, 300]``, which every member sees, or ``[S, N, 3, 300, 300]``, one view for
                each.

        Returns:
            Box deltas ``[S, N, 8732, 4]`` and class logits ``[S, N, 8732, num_classes + 1]``, in the order of
            ``ssd300_default_boxes``. If some members are ``Elsewhere``, those of the others.
        """
        views = images if images.dim() == 5 else [images] * len(self.members)
        if self.concurrent is not None and not self.training:
            return self.concurrent(list(views))
        adapters = self.adapters or [nn.Identity()] * len(self.members)
        features = [_member_levels(member, adapters[i], views[i]) for i, member in present(self.members)]
        shape = (len(features), views[0].shape[0])  # len() would fix the batch size of an exported graph
        levels = [torch.cat(level) for level in zip(*features, strict=True)]
        deltas, logits = _heads(levels, self.extras, self.loc, self.conf)
        return deltas.unflatten(0, shape), logits.unflatten(0, shape)

    def branches(self) -> list[nn.Module]:
        """Returns each member with its adapter and the shared layers: a view -> its deltas and logits ``[N, ...]``."""
        return [_Branch(self, number) for number in range(len(self.members))]


class _Branch(nn.Module):
    def __init__(self, ssd: SSD, number: int) -> None:
        super().__init__()
        self.member = ssd.members[number]
        self.adapter = ssd.adapters[number] if ssd.adapters is not None else nn.Identity()
        self.extras, self.loc, self.conf = ssd.extras, ssd.loc, ssd.conf

    def forward(self, view: Tensor) -> tuple[Tensor, Tensor]:
        return _heads(_member_levels(self.member, self.adapter, view), self.extras, self.loc, self.conf)


def _level_channels(member: nn.Module) -> list[int]:
    return member.level_channels if hasattr(member, "level_channels") else member.out_channels[-1:]


class _Adapter(nn.ModuleList):
    """Brings a member's levels, of ``own`` channels, to ``channels``, normalized."""

    def __init__(self, own: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__(
            nn.Sequential(nn.Conv2d(c, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True))
            for c, out in zip(own, channels, strict=True)
        )

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        return [layer(level) for layer, level in zip(self, levels, strict=True)]


def _member_levels(member: nn.Module, adapter: nn.Module, view: Tensor) -> list[Tensor]:
    """The feature maps of a view that a member and its adapter make, largest first."""
    features = member(view)
    return adapter([features] if isinstance(features, Tensor) else features)


def create_ssd(backbone: str, members: int = 1, num_classes: int = 80, pretrained: bool = False) -> SSD:
    """Creates SSD300 on a divided backbone, with fresh weights.

    Args:
        backbone: a name of ``classification.backbones.registry`` that exists with the ImageNet stem; ``timm:<model>``,
            of which the members are undivided copies; or ``timm:<model>,<model>,…``, one for each member.
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
    return SSD(create_feature_extractors(backbone, members, pretrained), num_classes)


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


def _heads(
    levels: list[Tensor], extras: nn.ModuleList, loc: nn.ModuleList, conf: nn.ModuleList
) -> tuple[Tensor, Tensor]:
    """Returns deltas ``[N, 8732, 4]`` and logits ``[N, 8732, num_classes + 1]`` of the first maps, ``[N, C, H, W]``."""
    levels = list(levels)
    for extra in extras:
        levels.append(extra(levels[-1]))
    classes = conf[0].out_channels // BOXES_PER_CELL[0]
    deltas = [_per_box(head(level), 4) for head, level in zip(loc, levels, strict=True)]
    logits = [_per_box(head(level), classes) for head, level in zip(conf, levels, strict=True)]
    return torch.cat(deltas, dim=1), torch.cat(logits, dim=1)


def _per_box(output: Tensor, values: int) -> Tensor:
    # A head's channels are (value, box shape), value outermost, as in the released checkpoints.
    return output.unflatten(1, (values, -1)).permute(0, 2, 3, 4, 1).flatten(1, 3)
