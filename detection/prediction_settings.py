"""How a trained detector is run: views, runtime, suppression, fusion. Nothing here imports torch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from divdet.engine.errors import UserError
from divdet.engine.settings import Concurrency, check_choice, check_range, check_whole

ConfType = Literal["avg", "max", "box_and_model_avg", "absent_model_aware_avg"]
FusionMethod = Literal["wbf", "nms", "soft_nms", "nmw"]

# Of the files of ``divdet export``, by format
EXPORT_ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}


@dataclass(kw_only=True)
class FusionRule:
    """How boxes of several detectors become one set.

    Attributes:
        method: wbf (weighted boxes fusion), nms, soft_nms (Gaussian, sigma 0.5) or nmw (non-maximum weighted).
        weights: one for each detector; None means equal.
        iou_thr: boxes whose IoU is above this belong together; 0 to 1. soft_nms takes none.
        skip_box_thr: boxes of lower score are left out; 0 to 1.
        conf_type: how wbf scores, see ``detection.fusion``.
    """

    method: FusionMethod = "wbf"
    weights: Sequence[float] | None = None
    iou_thr: float = 0.55
    skip_box_thr: float = 0.0
    conf_type: ConfType = "avg"

    def __post_init__(self) -> None:
        _as_python(self)
        check_choice("method", self.method, FusionMethod)
        check_choice("conf_type", self.conf_type, ConfType)
        _check_weights("weights", self.weights)
        for name in ("iou_thr", "skip_box_thr"):
            check_range(name, getattr(self, name), 0, 1)


def _check_weights(name: str, weights: Any) -> None:
    if weights is None:
        return
    numbers = isinstance(weights, Sequence) and all(isinstance(w, Real) and not isinstance(w, bool) for w in weights)
    if not numbers or not any(weights) or not all(0 <= weight < math.inf for weight in weights):
        raise UserError(f"{name} is {weights!r}: give numbers that are not negative, one of them above 0")


def _as_python(settings: Any) -> None:
    """Turns NumPy's and torch's numbers and arrays in a dataclass's fields into Python's."""
    for name, value in vars(settings).items():
        if hasattr(value, "tolist"):
            setattr(settings, name, value.tolist())


@dataclass
class PostprocessSettings:
    """Thresholds and limits from the network's outputs to the final boxes.

    The defaults are those of the paper's released code (which also drops a box at an IoU of exactly nms_iou, unlike
    torchvision and this project). torchvision's SSD300 uses score_threshold 0.01, candidates_per_class 400, nms_iou
    0.45, max_per_member 200, and no fusion. Compare results only under equal settings.

    Args:
        score_threshold: a class score (softmax over classes and background) must be strictly higher; 0 to 1.
        candidates_per_class: how many of the best boxes of each class enter NMS, for each member and image; at least 1.
        nms_iou: NMS drops a box whose IoU with a better one of its class is strictly above this; 0 to 1.
        max_per_member: how many boxes each member keeps per image; null means 200 times the number of members.
        fusion_iou: boxes of several members whose IoU is above this are fused; 0 to 1.
        fusion_skip: boxes of lower score are left out of the fusion; 0 to 1.
        fusion_conf: how fused scores are computed, see detection.fusion.
        class_agnostic: of final boxes whose IoU is above nms_iou, only the best is kept, whatever their classes.
        classes: names or category ids of the classes to find, as a list or separated by commas; null means all.
        class_thresholds: lowest final score by class name or category id, in place of the general one; 0 to 1.
        fusion_method: wbf (weighted boxes fusion), nms, soft_nms or nmw, see docs/fusion.md.
        member_weights: how much each member counts in the fusion; null means equally.
    """

    score_threshold: float = 0.05
    candidates_per_class: int = 200
    nms_iou: float = 0.5
    max_per_member: int | None = None
    fusion_iou: float = 0.5
    fusion_skip: float = 1e-4
    fusion_conf: ConfType = "avg"
    class_agnostic: bool = False
    classes: list[str | int] | str | None = None
    class_thresholds: dict[str | int, float] | None = None
    fusion_method: FusionMethod = "wbf"
    member_weights: list[float] | None = None

    def __post_init__(self) -> None:
        _as_python(self)
        if isinstance(self.classes, Iterable) and not isinstance(self.classes, str):
            self.classes = list(self.classes)
        for name in ("score_threshold", "nms_iou", "fusion_iou", "fusion_skip"):
            value = getattr(self, name)
            if isinstance(value, bool) or not (isinstance(value, int | float) and 0 <= value <= 1):
                raise UserError(f"postprocess.{name} is {value!r}: choose a value from 0 to 1")
        for name, also in (("candidates_per_class", ""), ("max_per_member", ", or null")):
            value = getattr(self, name)
            if value is None and also:
                continue
            if type(value) is not int or not 1 <= value < 2**31:
                raise UserError(f"postprocess.{name} is {value!r}: choose a whole number from 1 to 2^31 - 1{also}")
        check_choice("postprocess.fusion_conf", self.fusion_conf, ConfType)
        if not isinstance(self.class_agnostic, bool):
            raise UserError(f"postprocess.class_agnostic is {self.class_agnostic!r}: choose true or false")
        if not isinstance(self.classes, list | str | None):
            raise UserError(f"postprocess.classes is {self.classes!r}: give names or category ids, such as person,dog")
        if self.classes is not None and not self.classes:
            raise UserError("postprocess.classes is empty: name at least one class, or leave it out")
        if not isinstance(self.class_thresholds, Mapping | None):
            raise UserError(f"postprocess.class_thresholds is {self.class_thresholds!r}: give scores by class name")
        for name, value in (self.class_thresholds or {}).items():
            if isinstance(value, bool) or not (isinstance(value, Real) and 0 <= value <= 1):
                raise UserError(f"postprocess.class_thresholds: {name} has {value!r}: choose a value from 0 to 1")
        check_choice("postprocess.fusion_method", self.fusion_method, FusionMethod)
        _check_weights("postprocess.member_weights", self.member_weights)


Augmentation = Literal["flip", "scales"]


@dataclass(kw_only=True)
class ViewSettings:
    """How images are shown to the network: whole, or also in parts, mirrored or at other scales.

    Attributes:
        tile: side in pixels of the square tiles that an image is cut into, for small objects in large images; default:
            no tiles.
        overlap: share of a tile that its neighbors see, too, at least: enough for the objects; 0 to 0.9.
        whole_image: with tiles, also look at the image as a whole, for objects that no tile holds.
        tta: test-time augmentation, flip, scales or flip,scales: the boxes of all views are fused.
    """

    tile: int | None = None
    overlap: float = 0.2
    whole_image: bool = True
    tta: str | None = None

    def __post_init__(self) -> None:
        if self.tile is not None:
            check_whole("tile", self.tile, 32, 65536)
        check_range("overlap", self.overlap, 0, 0.9)
        if not isinstance(self.whole_image, bool):
            raise UserError(f"whole_image is {self.whole_image!r}: choose true or false")
        if not isinstance(self.tta, str | None):
            raise UserError(f"tta is {self.tta!r}: choose flip, scales or flip,scales")
        for name in self.augmentations:
            check_choice("tta", name, Augmentation)
        if self.tile is None and (self.overlap, self.whole_image) != (ViewSettings.overlap, ViewSettings.whole_image):
            raise UserError("overlap and whole_image are of tiles: give tile, too, or leave them out")

    @property
    def augmentations(self) -> frozenset[str]:
        """What ``tta`` names."""
        return frozenset(name.strip() for name in self.tta.split(",")) if self.tta else frozenset()

    @property
    def several(self) -> bool:
        """Whether an image is seen other than once and whole."""
        return self.tile is not None or bool(self.augmentations)


Runtime = Literal["torch", "compile", "onnxruntime", "openvino"]
RuntimePrecision = Literal["float32", "bf16", "fp16", "int8"]

_OF_TORCH = ("float32", "bf16", "fp16")
_PRECISIONS = {"torch": _OF_TORCH, "compile": _OF_TORCH, "onnxruntime": ("float32",), "openvino": ("float32", "int8")}


@dataclass(kw_only=True)
class RuntimeSettings:
    """What runs the network.

    Attributes:
        runtime: torch; compile (torch.compile: minutes at first, for every batch size); onnxruntime or openvino (CPU,
            each an extra to install).
        precision: float32; bf16 or fp16 of torch and compile; int8 of openvino, which costs some accuracy.
        calibration: folder of images on which int8 measures the ranges of values, at most 100 of them; default: the
            training images of the checkpoint.
        concurrency: how members run: sequential, or at the same time by streams or graph (on a CUDA device), devices
            (on several) or threads (on a CPU).
        devices: for concurrency devices, such as cuda:0,cuda:1; default: all CUDA devices.
    """

    runtime: Runtime = "torch"
    precision: RuntimePrecision = "float32"
    calibration: str | None = None
    concurrency: Concurrency = "sequential"
    devices: str | None = None

    def __post_init__(self) -> None:
        check_choice("runtime", self.runtime, Runtime)
        if self.precision not in _PRECISIONS[self.runtime]:
            choices = ", ".join(_PRECISIONS[self.runtime])
            raise UserError(f"precision is {self.precision!r}: runtime {self.runtime} takes {choices}")
        check_choice("concurrency", self.concurrency, Concurrency)
        if self.concurrency != "sequential" and self.runtime != "torch":
            raise UserError(f"concurrency is {self.concurrency!r}: that takes runtime torch, not {self.runtime}")
        if self.devices and self.concurrency != "devices":
            raise UserError(f"devices is {self.devices!r}: that takes concurrency devices, not {self.concurrency}")
