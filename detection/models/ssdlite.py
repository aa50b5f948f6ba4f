"""SSDLite, as torchvision's: SSD with depthwise convolutions in extra blocks and heads (Sandler et al. 2018, 6.2)."""

from functools import partial

from torch import nn
from torchvision.ops.misc import Conv2dNormActivation

from detection.heads import SSDLITE_BOXES
from detection.models.ssd import Multibox

_EXTRA_CHANNELS = (512, 256, 256, 128)  # behind MobileNetV3-Large's last level
_LAST_CHANNELS = 480  # of that level
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


def _extra_block(channels: int, outer: int) -> nn.Sequential:
    inner = outer // 2
    return nn.Sequential(
        _BLOCK(channels, inner, kernel_size=1),
        _BLOCK(inner, inner, kernel_size=3, stride=2, groups=inner),
        _BLOCK(inner, outer, kernel_size=1),
    )


def _head(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_BLOCK(channels, channels, kernel_size=3, groups=channels), nn.Conv2d(channels, outputs, 1))
