"""FCOS of torchvision's parts, shared by the members (Tian et al. 2019, with torchvision's changes)."""

import re
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead, fcos_resnet50_fpn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from detection.models.coco_classes import COCO
from detection.models.fcos_loss import fcos_loss
from detection.models.head import DividedDetector, LossOptions
from divdet.engine.checkpoint import check_weights
from divdet.engine.errors import UserError

# Of the pyramid and the towers, behind a last level of as many channels as ResNet-50's
_WIDTH, _CHANNELS = 256, 2048
_LEAST = 32
_GROUP = 8  # channels that are normalized together
_STEPS = (8, 16, 32, 64, 128)  # of the levels P3 to P7, in pixels
# torchvision's names and those here
_PARTS = {
    "backbone.body.": "members.0.network.",
    "backbone.fpn.": "fpn.",
    "head.classification_head.": "classification.",
    "head.regression_head.": "regression.",
}


class FCOS(DividedDetector):
    """FCOS at any input size that is a multiple of 32: a box, a centerness and class scores at each point.

    Members give maps at strides 8, 16 and 32, of which a feature pyramid makes five levels. Behind ``timm:resnet50`` it
    is torchvision's ``fcos_resnet50_fpn``. Behind fewer channels the pyramid and the towers are narrower.

    Regressions are ``[S, N, A, 5]``: the distances of the box's left, top, right and lower side from the point in
    strides of its level, and the logit of its centerness. Points go by level, row, column.

    Attributes:
        points: ``[A, 2]`` x and y in pixels of the input: multiples of the level's stride, as torchvision's.
        steps: ``[A]``, the level's stride in pixels, which normalizes the distances.
    """

    strides = _STEPS[:3]
    background = 0
    unused_options = ("neg_to_pos_ratio",)

    def build(self, channels: list[int]) -> None:
        width = max(_LEAST, -(-min(_WIDTH, _WIDTH * channels[-1] // _CHANNELS) // _GROUP) * _GROUP)
        norm = partial(nn.GroupNorm, width // _GROUP)
        self.fpn = FeaturePyramidNetwork(channels, width, LastLevelP6P7(width, width))
        self.classification = FCOSClassificationHead(width, 1, self.num_classes, norm_layer=norm)
        self.regression = FCOSRegressionHead(width, 1, norm_layer=norm)
        # torchvision's 0 starts half of the distances behind their ReLU, where a few large steps can hold all of them:
        # by it one of three runs on bccd never learned boxes (AP 0.007)
        nn.init.ones_(self.regression.bbox_reg.bias)
        points, steps = _points(self.input.size)
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("steps", steps, persistent=False)

    def place(self) -> None:
        self.points, self.steps = (part.to(self.points.device) for part in _points(self.input.size))

    def forward_head(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        pyramid = list(self.fpn({str(number): level for number, level in enumerate(levels)}).values())
        return torch.cat(self.regression(pyramid), dim=-1), self.classification(pyramid)

    def loss(
        self, regressions: Tensor, logits: Tensor, boxes: Tensor, labels: Tensor, options: LossOptions
    ) -> dict[str, Tensor]:
        truth = (boxes * self.input.size, labels)
        return fcos_loss(
            regressions, logits, self.points, self.steps, *truth, options.cot_weight, options.class_weights
        )

    def decode(self, regressions: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes, clipped to the input, and scores: the geometric mean of class probability and centerness."""
        distances, centerness = regressions.float().split([4, 1], dim=-1)
        left_top, right_bottom = (distances * self.steps[:, None]).chunk(2, dim=-1)
        boxes = torch.cat([self.points - left_top, self.points + right_bottom], dim=-1) / self.input.size
        return boxes.clamp(0, 1), (logits.float().sigmoid() * centerness.sigmoid()).sqrt()

    def class_keys(self) -> list[str]:
        return ["classification.cls_logits.weight", "classification.cls_logits.bias"]

    def published_weights(self, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor] | None:
        """Those of torchvision's ``fcos_resnet50_fpn``, for one member, ``timm:resnet50``."""
        if not any(name.startswith("head.regression_head.bbox_ctrness.") for name in weights):
            return None
        # Batch norms may be frozen, without counts, and pyramids of before torchvision 0.14 have one level less
        weights = {
            re.sub(r"((?:inner|layer)_blocks\.\d+\.)(?=weight|bias)", r"\g<1>0.", name): value
            for name, value in weights.items()
            if not name.endswith(".num_batches_tracked")
        }
        with torch.device("meta"):
            theirs = fcos_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
        check_weights({k: v for k, v in theirs.items() if not k.endswith(".num_batches_tracked")}, weights, source)
        own = self.state_dict()  # perhaps on the meta device
        counts = {key: value for key, value in own.items() if key.endswith(".num_batches_tracked")}
        found = {key: torch.zeros_like(value, device="cpu") for key, value in counts.items()}
        for part, place in _PARTS.items():
            found |= {place + k.removeprefix(part): v for k, v in weights.items() if k.startswith(part)}
        if found.keys() != own.keys():
            raise UserError(
                f"{source}: is torchvision's FCOS, of one member: set model.backbone to timm:resnet50 and "
                "model.members to 1"
            )
        rows = [category["id"] for category in COCO]
        return found | {key: found[key][rows] for key in self.class_keys()}


def _points(size: int) -> tuple[Tensor, Tensor]:
    """``FCOS.points`` and ``FCOS.steps`` of an input of ``size`` pixels a side."""
    points, steps = [], []
    cells = 2 * size // _STEPS[0]
    for step in _STEPS:
        cells = -(-cells // 2)
        # torchvision's rounding: less than the stride where P6 or P7 covers more than the input
        places = torch.arange(cells, dtype=torch.float32) * (size // cells)
        points.append(torch.cartesian_prod(places, places).flip(1))
        steps.append(torch.full((cells**2,), float(step)))
    return torch.cat(points), torch.cat(steps)
