"""The backbones by name, and the members that each is divided into."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from torch import nn

from classification.backbones import TIMM, dividing
from classification.backbones.dividing import Widths
from classification.backbones.features import STRIDES, level_features
from classification.backbones.resnet import DETECTION_INPUT, BasicBlock, Bottleneck, SENetBottleneck
from divdet.engine.errors import UserError
from divdet.engine.settings import check_whole

CIFAR, IMAGENET, BOTH = ("cifar",), ("imagenet",), ("cifar", "imagenet")


@dataclass(frozen=True)
class BackboneSpec:
    """A network: its family, and what tells it from the others of it."""

    family: str  # module of `classification.backbones`, imported when a network is built
    options: dict[str, Any]  # further arguments of the module's `build`, with `drop_path` if the family drops blocks
    forms: tuple[str, ...] = CIFAR  # cifar (for images up to 64 pixels), imagenet, or both

    def build(self, members: int, form: str, num_classes: int | None, dropout: float) -> nn.Module:
        """Builds one of S members in a form: [N,3,H,W] -> logits [N,num_classes]; ``dropout`` is the member's own.

        Without ``num_classes`` it is the paper's feature extractor of SSD300, which the residual networks have.
        """
        family = import_module(f"classification.backbones.{self.family}")
        return family.build(members, form, num_classes, dropout, **self.options)

    def build_features(self, name: str, members: int, strides: Sequence[int] | None, size: int) -> nn.Module:
        """Builds one of S feature extractors; see `create_feature_extractors`. ``name`` is for errors."""
        if self.family == "timm_models":
            from classification.backbones.timm_models import TimmFeatures

            return TimmFeatures(self.options["name"], self.options["pretrained"], strides or STRIDES, size)
        form = IMAGENET[0] if IMAGENET[0] in self.forms else CIFAR[0]
        if strides is None and self.family == "resnet" and form in IMAGENET:
            return self.build(members, form, None, 0.0)
        return level_features(self.build(members, form, 1, 0.0), name, form, STRIDES if strides is None else strides)


class Dataset(NamedTuple):
    """The form of network that a data set takes, its number of classes, and the side of its images in pixels."""

    form: str
    num_classes: int
    image_size: int


DATASETS = {
    "cifar10": Dataset("cifar", 10, 32),
    "cifar100": Dataset("cifar", 100, 32),
    "svhn": Dataset("cifar", 10, 32),
    "imagenet": Dataset("imagenet", 1000, 224),
}


def residual(
    forms: tuple[str, ...], block: type, blocks: tuple[int, ...], divide: Callable[[int], Widths], **options: Any
) -> BackboneSpec:
    """A residual network; see `classification.backbones.resnet.build`."""
    return BackboneSpec("resnet", {"block": block, "blocks": blocks, "divide": divide, **options}, forms)


def small_resnet(blocks: int, width: int) -> BackboneSpec:
    """Four stages of ``blocks`` basic blocks, the first of ``width`` channels. They learn best from PyTorch's start."""
    return residual(BOTH, BasicBlock, (blocks,) * 4, partial(dividing.small_resnet, width), released_start=False)


def wrn(blocks: int, factor: int) -> BackboneSpec:
    """WRN for CIFAR: three stages of ``blocks`` basic blocks."""
    return residual(CIFAR, BasicBlock, (blocks,) * 3, partial(dividing.wrn, factor))


def resnext29(groups: int) -> BackboneSpec:
    """ResNeXt-29 for CIFAR with 64 channels per group in the first stage."""
    return residual(CIFAR, Bottleneck, (3, 3, 3), partial(dividing.resnext, groups, 64))


def efficientnet(width: float, depth: float = 1.0) -> BackboneSpec:
    """EfficientNet by Tan and Le's coefficients of width and depth."""
    return BackboneSpec("efficientnet", {"width": width, "depth": depth, "drop_path": 0.2}, BOTH)


class WidthSweep(NamedTuple):
    """Networks that differ only in width (Fig. 1): ``build(width)``; all widths are ints where the smallest is one."""

    build: Callable[..., BackboneSpec]
    smallest: float
    largest: float


# By name, with the width in brackets. The largest network has 1.4 billion parameters.
WIDTH_SWEEPS = {
    "resnet10_<w>": WidthSweep(partial(small_resnet, 1), 2, 512),
    "resnet18_<w>": WidthSweep(partial(small_resnet, 2), 2, 512),
    "wrn10_<k>": WidthSweep(partial(wrn, 1), 1, 50),
    "wrn16_<k>": WidthSweep(partial(wrn, 2), 1, 50),
    "wrn28_<k>": WidthSweep(partial(wrn, 4), 1, 50),
    "wrn40_<k>": WidthSweep(partial(wrn, 6), 1, 50),
    "resnext29_<c>x64d": WidthSweep(resnext29, 1, 256),
    "efficientnet_w<factor>": WidthSweep(efficientnet, 0.1, 16.0),
}

# Hu et al. 2018; the published networks for CIFAR have a reduction of 4
SENET = {"reduction": 16, "ceil_pool": True}

BACKBONES: dict[str, BackboneSpec] = {
    # Networks of the paper: forms, block, blocks per stage, dividing rule, options
    "resnet50": residual(IMAGENET, Bottleneck, (3, 4, 6, 3), partial(dividing.resnet, 64, 4, given={2: 44})),
    "resnet110": residual(CIFAR, Bottleneck, (12, 12, 12), partial(dividing.resnet, 16, 4)),
    "resnet164": residual(CIFAR, Bottleneck, (18, 18, 18), partial(dividing.resnet, 16, 4)),
    "wrn16_8": wrn(2, 8),
    "wrn28_10": wrn(4, 10),
    "wrn40_10": wrn(6, 10),
    "wrn50_2": residual(IMAGENET, Bottleneck, (3, 4, 6, 3), partial(dividing.wrn_bottleneck, 2)),
    "wrn50_3": residual(IMAGENET, Bottleneck, (3, 4, 6, 3), partial(dividing.wrn_bottleneck, 3)),
    "resnext29_8x64d": resnext29(8),
    "resnext101_64x4d": residual(IMAGENET, Bottleneck, (3, 4, 23, 3), partial(dividing.resnext, 64, 4)),
    "se_resnet110": residual(CIFAR, Bottleneck, (12, 12, 12), partial(dividing.resnet, 16, 4), reduction=4),
    "se_resnet164": residual(CIFAR, Bottleneck, (18, 18, 18), partial(dividing.resnet, 16, 4), reduction=4),
    "se_resnet50": residual(
        IMAGENET, Bottleneck, (3, 4, 6, 3), partial(dividing.resnet, 64, 4, given={2: 44}, widen_stem=False), **SENET
    ),
    "se_resnext101_64x4d": residual(
        IMAGENET, Bottleneck, (3, 4, 23, 3), partial(dividing.resnext, 64, 4, stem_out=64), **SENET
    ),
    "se_resnext101_64x4d_B": residual(IMAGENET, Bottleneck, (3, 4, 23, 3), partial(dividing.resnext, 64, 4), **SENET),
    "senet154": residual(
        IMAGENET, SENetBottleneck, (3, 8, 36, 3), partial(dividing.resnext, 64, 4), **SENET, shortcut_kernel=3
    ),
    "densenet_bc_190": BackboneSpec("densenet", {"layers": 31, "growth": 40}),
    "pyramidnet272": BackboneSpec("pyramidnet", {"blocks": 30, "alpha": 200, "drop_path": 0.5}),
    "shake_shake26_2x96d": BackboneSpec("shake_shake", {"blocks": 4, "width": 96, "given": {2: 64}}),
    "efficientnet_b0": efficientnet(1.0, 1.0),
    "efficientnet_b1": efficientnet(1.0, 1.1),
    "efficientnet_b2": efficientnet(1.1, 1.2),
    "efficientnet_b3": efficientnet(1.2, 1.4),
    "efficientnet_b4": efficientnet(1.4, 1.8),
    "efficientnet_b5": efficientnet(1.6, 2.2),
    "efficientnet_b6": efficientnet(1.8, 2.6),
    "efficientnet_b7": efficientnet(2.0, 3.1),
    # Of the model.head ssdlite
    "mobilenet_v3_large": BackboneSpec("mobilenet", {}, IMAGENET),
    # Small networks of our own, resnet<layers>_<width of stage 1>; the layers are the ImageNet form's
    "resnet10_16": small_resnet(1, 16),
    "resnet10_24": small_resnet(1, 24),
    "resnet10_32": small_resnet(1, 32),
    "resnet18_32": small_resnet(2, 32),
    "resnet18_64": small_resnet(2, 64),
}


def _unknown(kind: str, name: str, known: list[str], others: str = "") -> UserError:
    close = difflib.get_close_matches(str(name), known, n=4, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else f"one of {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}: {hint}{others}")


def find_dataset(name: str) -> Dataset:
    """An entry of ``DATASETS``; raises UserError for an unknown name."""
    if not isinstance(name, str) or name not in DATASETS:
        raise _unknown("dataset", name, list(DATASETS))
    return DATASETS[name]


def find_backbone(name: str, form: str | None = None) -> BackboneSpec:
    """The network of a name in ``BACKBONES``, or in ``WIDTH_SWEEPS`` with a number in place of the brackets.

    Raises UserError for any other name (listing close ones), a width out of range, or a network without that form.
    """
    spec = BACKBONES.get(name) or _find_in_sweeps(name)
    if spec is None:
        raise _unknown("backbone", name, [*BACKBONES, *WIDTH_SWEEPS], " (timm's models are timm:<model>)")
    if form is not None and form not in spec.forms:
        others = ", ".join(other for other, s in BACKBONES.items() if form in s.forms)
        raise UserError(f"{name} has no {form} form, only {spec.forms[0]}; those with {form} are: {others}")
    return spec


def _find_in_sweeps(name: str) -> BackboneSpec | None:
    for pattern, sweep in WIDTH_SWEEPS.items():
        before, width, after = re.split("[<>]", pattern)
        found = re.fullmatch(rf"{before}(-?[0-9]+(?:\.[0-9]+)?){after}", name)
        if not found:
            continue
        number, whole = float(found[1]), isinstance(sweep.smallest, int)
        if not sweep.smallest <= number <= sweep.largest or (whole and "." in found[1]):
            kind = "a whole number" if whole else "a number"
            raise UserError(
                f"backbone {name}: {width} of {pattern} must be {kind} from {sweep.smallest:g} to {sweep.largest:g}"
            )
        return sweep.build(int(number) if whole else number)
    return None


def member_specs(backbone: str, members: int, form: str | None, pretrained: bool = False) -> list[BackboneSpec]:
    """What each of S members is built from: the one network that is divided, or its own model of timm.

    ``form`` is one that it must have, or None.
    """
    if not isinstance(backbone, str):
        raise UserError(f"backbone is {backbone!r}: give its name, such as wrn50_2")
    dividing.check_members(members)
    if backbone.startswith(TIMM):
        from classification.backbones.timm_models import member_names

        options = {"drop_path": None, "pretrained": pretrained}
        names = member_names(backbone, members)
        return [BackboneSpec("timm_models", {"name": name, **options}, BOTH) for name in names]
    spec = find_backbone(backbone, form)
    if pretrained:
        what = "is not one of its models, which are timm:<model>"
        raise UserError(f"pretrained is timm, but {backbone} {what}: name one, or give a checkpoint, or nothing")
    return [spec] * members


def create_members(
    backbone: str,
    members: int,
    num_classes: int,
    dataset: str,
    dropout: float = 0.0,
    drop_path: float | None = None,
    pretrained: bool = False,
) -> nn.ModuleList:
    """Builds S independently initialized classifiers, each [N,3,H,W] -> logits [N,num_classes].

    Args:
        backbone: as in `ModelSettings`, like ``members``, ``dropout`` and ``drop_path``.
        dataset: a name of ``DATASETS``; decides stem and strides.
        pretrained: start from the weights that timm fetches, alike in all copies of a model.

    Raises:
        UserError: for an unknown name, a form that the backbone lacks, an S that its rule does not allow, or weights
            that cannot be fetched.
    """
    check_whole("num_classes", num_classes, 1)
    form = find_dataset(dataset).form
    specs = member_specs(backbone, members, form, pretrained)
    if drop_path is not None:
        if "drop_path" not in specs[0].options:
            others = ", ".join(other for other, s in BACKBONES.items() if "drop_path" in s.options)
            raise UserError(f"{backbone} drops no blocks, so drop_path must stay unset; those that do are: {others}")
        specs = [replace(spec, options=spec.options | {"drop_path": drop_path}) for spec in specs]
    p = dividing.divide_drop_probability(dropout, members)
    return nn.ModuleList(spec.build(members, form, num_classes, p) for spec in specs)


def create_feature_extractors(
    backbone: str,
    members: int,
    pretrained: bool = False,
    strides: Sequence[int] | None = None,
    size: int = DETECTION_INPUT,
) -> nn.ModuleList:
    """Builds S independently initialized backbones of a detector.

    Each is [N,3,H,W] -> a list of maps [N,C,⌈H/s⌉,⌈W/s⌉], one at each stride s, with their channels in
    ``level_channels``. Its ``from_classifier`` selects its weights from those of the network as a classifier, which
    have the same shapes.

    - ResNet, SE-ResNet, WRN-50, ResNeXt-101, SENet-154 (ImageNet form): the ends of their stages, at strides 4 to 32.
    - EfficientNet (ImageNet form): the last stage at each stride from 2 to 32, without the convolution before the
      classifier.
    - Networks that exist for small images alone (ResNet-110 and -164, SE-ResNet, WRN, ResNeXt-29, DenseNet-BC,
      PyramidNet, Shake-Shake): their three stages at strides 8, 16 and 32. For that the stem's convolution gets a
      stride of 2, and two max pools follow. At 300 pixels the stages have 38, 19 and 10 cells a side, about as many as
      the 32, 16 and 8 on CIFAR.
    - timm's models: their last features at each stride (`TimmFeatures`).

    The last level ends as the classifier's features do (batch norm, ReLU); the others are the outputs of their blocks,
    in DenseNet, PyramidNet and Shake-Shake before any batch norm.

    Args:
        backbone: as of `create_members`, like ``members`` and ``pretrained``.
        strides: of the maps, finest first. None is SSD300's choice: of residual networks in the ImageNet form one map
            (not a list) of ``out_channels[-1]`` channels at stride 8, by a third stage without stride (paper, Sec. V);
            of the others maps at 8, 16 and 32.
        size: side in pixels of square images that timm's models must take; the other networks take any.

    Raises:
        UserError: as `create_members`, for strides that the backbone lacks, and images that it does not take.
    """
    specs = member_specs(backbone, members, None, pretrained)
    return nn.ModuleList(spec.build_features(backbone, members, strides, size) for spec in specs)
