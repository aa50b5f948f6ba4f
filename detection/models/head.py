"""What S members share to find boxes, and the contract of a head: subclasses of `DividedDetector`."""

from __future__ import annotations

import copy
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from classification.backbones.registry import create_feature_extractors
from detection.heads import Input, find_head, input_of
from divdet.engine.members import present
from divdet.engine.settings import check_whole


@dataclass(frozen=True)
class LossOptions:
    """What a recipe says of the loss; a head names those that it does not know in ``unused_options``.

    Attributes:
        neg_to_pos_ratio: mined negatives per positive.
        class_weights: [C + 1], factors on the classification loss by true class, background first; None: all 1.
        cot_weight: λ of the divergence between the members; None leaves it out.
    """

    neg_to_pos_ratio: float = 3.0
    class_weights: Tensor | None = None
    cot_weight: float | None = None


class DividedDetector(nn.Module, ABC):
    """S backbones under one head.

    A head is a subclass. It makes the layers that the members share as direct children (``build``), runs them
    (``forward_head``), says what they should have found (``loss``) and what they have found (``decode``). It is
    registered by a ``HeadSpec`` in ``detection.heads.HEADS``. Training, evaluation, runtimes, concurrent members and
    member parallelism follow.

    The members' feature maps are concatenated along the batch for the shared layers, which run once. In training their
    batch norms therefore take their statistics over all members and update the running ones once a step: training
    normalizes as evaluation does, by one set of statistics. The released code runs the shared layers member by member,
    so that in training each member is normalized by its own statistics. In evaluation both compute the same. The
    gradient of a shared weight is the sum over the members' losses, as in the released code.

    Attributes:
        head: its name in ``HEADS``.
        members: the backbones; some may be ``Elsewhere``, in other processes.
        adapters: brings each member's maps to the same channels, or None.
        num_classes: C, foreground classes.
        input: size of the images, and how they are brought to it.
        default_boxes: ``[A, 4]`` (cx, cy, w, h), a buffer, for heads whose outputs are SSD's: offsets from default
            boxes, and logits for a softmax over background and classes. These get a compiled ``decode``. Else None.
        concurrent: in evaluation mode, runs ``branches()`` at the same time (see ``divdet.engine.concurrency``).

    Class attributes:
        strides: of the maps that the head wants of each member, largest map first; None is SSD's choice (see
            ``create_feature_extractors``).
        background: the number of logits before those of the classes: 1 with a softmax, 0 with sigmoids.
        unused_options: names of ``LossOptions`` that mean nothing to the head; a recipe that sets them is refused.

    Args:
        members: S backbones, from ``[N, 3, size, size]`` to a list of maps ``[N, C, H, W]`` at ``strides`` with their
            ``level_channels``, or to one map with ``out_channels`` (C is the last).
        num_classes: foreground classes.
        input: see above.
    """

    strides: tuple[int, ...] | None = None
    background = 1
    unused_options: tuple[str, ...] = ()
    default_boxes: Tensor | None
    head = ""

    def __init__(self, members: nn.ModuleList, num_classes: int, input: Input | None = None) -> None:
        super().__init__()
        self.members = members
        self.num_classes = num_classes
        self.input = input or Input()
        self.concurrent: Callable[[Sequence[Tensor]], Any] | None = None
        self.register_buffer("default_boxes", None, persistent=False)
        own = [_level_channels(member) for member in members]
        common = self.adapted_channels(own)
        self.adapters = nn.ModuleList(_Adapter(c, common) for c in own) if common is not None else None
        self.build(common or own[0])

    # What a head defines

    def adapted_channels(self, own: list[list[int]]) -> list[int] | None:
        """Channels by level that an adapter for each member (1x1 convolution, batch norm, ReLU) should make.

        ``own`` has the channels of each member's levels. None: no adapters. By default only members that differ get
        them, to the most channels of each level.
        """
        return [max(level) for level in zip(*own, strict=True)] if any(other != own[0] for other in own) else None

    @abstractmethod
    def build(self, channels: list[int]) -> None:
        """Makes the shared layers, as attributes, behind levels of so many channels."""

    @abstractmethod
    def forward_head(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Runs the shared layers.

        Args:
            levels: ``[P, C, H, W]`` each, largest first; a picture p is an image as one member sees it.

        Returns:
            Regressions ``[P, A, R]`` (R is the head's own) and logits ``[P, A, background + num_classes]``.
        """

    @abstractmethod
    def loss(
        self, regressions: Tensor, logits: Tensor, boxes: Tensor, labels: Tensor, options: LossOptions
    ) -> dict[str, Tensor]:
        """The loss of the members on a batch: a mean over the images, a sum over the members.

        Args:
            regressions: ``[S, N, A, R]``, of any floating dtype.
            logits: ``[S, N, A, background + num_classes]``, likewise.
            boxes: ``[N, M, 4]`` xyxy as fractions of the input, padded at the end; the same for all members.
            labels: ``[N, M]``, 0-based; -1 for padding.
            options: of the recipe.

        Returns:
            Scalars in float32: ``loss``, which is differentiated, and the parts of it that are logged.
        """

    @abstractmethod
    def decode(self, regressions: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes ``[..., A, 4]`` xyxy as fractions of the input, and scores ``[..., A, num_classes]`` in 0…1, float32.

        Arguments as of ``loss``. Boxes need not be clipped to the image.
        """

    def class_keys(self) -> list[str]:
        """Keys of ``state_dict`` whose first dimension is (background and classes, shapes), classes outermost.

        From a checkpoint of other classes these rows are taken by class name.
        """
        return [key for key in self.state_dict() if key.startswith("conf.")]

    def published_weights(self, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor] | None:
        """Weights that others published of this head and its backbone, by the names here, for COCO's 80 classes.

        Args:
            weights: by their names.
            source: for messages.

        Returns:
            ``state_dict`` of this detector if it had COCO's classes; None where the weights are of something else.

        Raises:
            UserError: where they are of this head, but not of these members.
        """
        return None

    def place(self) -> None:
        """Sets again what depends on the input's size, such as default boxes; for ``at_size``."""

    # What all heads have

    @contextmanager
    def at_size(self, size: int) -> Iterator[None]:
        """Takes images of ``size`` pixels a side instead of its own input's, inside a ``with`` statement."""
        own = self.input
        try:
            self.input = replace(own, size=size)
            self.place()
            yield
        finally:
            self.input = own
            self.place()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Computes every member's raw outputs.

        Args:
            images: normalized; ``[N, 3, size, size]``, which every member sees, or ``[S, N, 3, size, size]``, one view
                for each.

        Returns:
            What ``forward_head`` does, as ``[S, N, ...]``. If some members are ``Elsewhere``, those of the others.
        """
        views = images if images.dim() == 5 else [images] * len(self.members)
        if self.concurrent is not None and not self.training:
            return self.concurrent(list(views))
        adapters = self.adapters or [nn.Identity()] * len(self.members)
        features = [_levels(member, adapters[i], views[i]) for i, member in present(self.members)]
        shape = (len(features), views[0].shape[0])  # len() would fix the batch size of an exported graph
        regressions, logits = self.forward_head([torch.cat(level) for level in zip(*features, strict=True)])
        return regressions.unflatten(0, shape), logits.unflatten(0, shape)

    def branches(self) -> list[nn.Module]:
        """Returns each member with its adapter and the shared layers: a view -> its raw outputs ``[N, ...]``."""
        return [_Branch(self, number) for number in range(len(self.members))]

    def _shared(self) -> DividedDetector:
        """This detector without members: the shared layers themselves, not copies."""
        shared = copy.copy(self)
        own = {name: layer for name, layer in self._modules.items() if name not in ("members", "adapters")}
        shared.__dict__.update(_modules=own, concurrent=None)
        return shared


class _Branch(nn.Module):
    def __init__(self, detector: DividedDetector, number: int) -> None:
        super().__init__()
        self.member = detector.members[number]
        self.adapter = detector.adapters[number] if detector.adapters is not None else nn.Identity()
        self.head = detector._shared()

    def forward(self, view: Tensor) -> tuple[Tensor, Tensor]:
        return self.head.forward_head(_levels(self.member, self.adapter, view))


class _Adapter(nn.ModuleList):
    """Brings a member's levels, of ``own`` channels, to ``channels``, normalized."""

    def __init__(self, own: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__(
            nn.Sequential(nn.Conv2d(c, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True))
            for c, out in zip(own, channels, strict=True)
        )

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        return [layer(level) for layer, level in zip(self, levels, strict=True)]


def _level_channels(member: nn.Module) -> list[int]:
    return member.level_channels if hasattr(member, "level_channels") else member.out_channels[-1:]


def _levels(member: nn.Module, adapter: nn.Module, view: Tensor) -> list[Tensor]:
    """The maps of a view that a member and its adapter make, largest first."""
    features = member(view)
    return adapter([features] if isinstance(features, Tensor) else features)


def create_detector(
    head: str,
    backbone: str,
    members: int = 1,
    num_classes: int = 80,
    input_size: int | None = None,
    pretrained: bool = False,
) -> DividedDetector:
    """Creates a detector on a divided backbone, with fresh weights.

    Args:
        head: a name of ``detection.heads.HEADS``.
        backbone, members, num_classes, pretrained: see ``create_ssd``.
        input_size: pixels a side; default: the head's own.

    Raises:
        UserError: for an unknown name, no class, a size that the head does not take, a backbone that it cannot use or
            that cannot be divided into S, or weights that cannot be downloaded.
    """
    network, shape = find_head(head).network, input_of(head, input_size)
    check_whole("num_classes", num_classes, 1)
    if isinstance(network, str):
        module, _, name = network.partition(":")
        network = getattr(importlib.import_module(module), name)
    extractors = create_feature_extractors(backbone, members, pretrained, network.strides, shape.size)
    detector = network(extractors, num_classes, shape)
    detector.head = head
    return detector
