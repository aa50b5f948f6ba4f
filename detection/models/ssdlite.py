"""SSDLite, as torchvision's: SSD with depthwise convolutions in extra blocks and heads (Sandler et al. 2018, 6.2)."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.ops.misc import Conv2dNormActivation

from detection.heads import SSDLITE_BOXES
from detection.models.coco_classes import COCO
from detection.models.ssd import Multibox
from divdet.engine.checkpoint import check_weights
from divdet.engine.errors import UserError

_EXTRA_CHANNELS = (512, 256, 256, 128)  # behind MobileNetV3-Large's last level
_LAST_CHANNELS = 480  # of that level
# torchvision's names and those here
_PARTS = {
    "backbone.extra.": "extras.",
    "head.regression_head.module_list.": "loc.",
    "head.classification_head.module_list.": "conf.",
}
_NORM = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)
_BLOCK = partial(Conv2dNormActivation, norm_layer=_NORM, activation_layer=nn.ReLU6)


class SSDLite(Multibox):
    """SSDLite, at any input size: 3,234 default boxes at 320 pixels.

    Members give maps at strides 16 and 32, extra blocks four more. Behind ``mobilenet_v3_large``, undivided, it is
    torchvision's ``ssdlite320_mobilenet_v3_large``. Behind fewer channels the extra blocks shrink with them.
    """

    strides = (16, 32)
    plan = SSDLITE_BOXES

    def build(self, channels: list[int]) -> None:
        channels, share = list(channels), min(1.0, channels[-1] / _LAST_CHANNELS)
        self.extras = nn.ModuleList()
        for width in _EXTRA_CHANNELS:
            outer = max(16, -(-int(width * share) // 8) * 8)
            self.extras.append(_extra_block(channels[-1], outer))
            channels.append(outer)
        levels = list(zip(channels, self.plan.boxes_per_cell, strict=True))
        self.loc = nn.ModuleList(_head(c, 4 * a) for c, a in levels)
        self.conf = nn.ModuleList(_head(c, (self.num_classes + 1) * a) for c, a in levels)
        for part in (self.extras, self.loc, self.conf):
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, std=0.03)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)

    def class_keys(self) -> list[str]:
        return [f"conf.{level}.1.{name}" for level in range(len(self.conf)) for name in ("weight", "bias")]

    def published_weights(self, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor] | None:
        """Those of torchvision's ``ssdlite320_mobilenet_v3_large``, for one member, ``mobilenet_v3_large``."""
        if not any(name.startswith("head.classification_head.module_list.0.1.") for name in weights):
            return None
        with torch.device("meta"):
            theirs = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).state_dict()
        check_weights(theirs, dict(weights), source)
        names = [name for name in theirs if name.startswith("backbone.features.")]
        own = list(self.members[0].state_dict())
        if len(self.members) > 1 or len(own) != len(names):
            raise UserError(
                f"{source}: is torchvision's SSDLite, of one member: set model.backbone to mobilenet_v3_large and "
                "model.members to 1"
            )
        new_names = {name: f"members.0.{key}" for name, key in zip(names, own, strict=True)}
        for part, place in _PARTS.items():
            new_names |= {name: place + name.removeprefix(part) for name in theirs if name.startswith(part)}
        found = {new_names[name]: value for name, value in weights.items()}
        for level, shapes in enumerate(self.plan.boxes_per_cell):
            for head, rows in (("loc", range(4)), ("conf", [0, *(category["id"] for category in COCO)])):
                for name in ("weight", "bias"):
                    key = f"{head}.{level}.1.{name}"
                    values = found[key].unflatten(0, (shapes, -1))  # (box shape, value), here the other way round
                    found[key] = values.transpose(0, 1)[list(rows)].flatten(0, 1)
        return found


def _extra_block(channels: int, outer: int) -> nn.Sequential:
    inner = outer // 2
    return nn.Sequential(
        _BLOCK(channels, inner, kernel_size=1),
        _BLOCK(inner, inner, kernel_size=3, stride=2, groups=inner),
        _BLOCK(inner, outer, kernel_size=1),
    )


def _head(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_BLOCK(channels, channels, kernel_size=3, groups=channels), nn.Conv2d(channels, outputs, 1))
